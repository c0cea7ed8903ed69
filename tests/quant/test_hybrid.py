"""Hybrid bundles: prompts are read by the int8 graph and answers written by the int4 one, over one KV cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qvl_export import ExportError, export
from qvl_export.graph.scale_folds import Fold
from qvl_export.quant.calibration import smoothquant as smooth
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.errors import BundleError
from qvl_runtime.manifest import MANIFEST
from qvl_runtime.model import Model, load
from tests.exporter import damage as d
from tests.heldout import HELDOUT, Item, divergence, items
from tests.oracles.tiny import FAMILIES, REFERENCE
from tests.plans import export_plan
from tests.quant.stopping import quantized_stages, stopped_after
from tests.quant.test_layerwise import hashes

pytestmark = pytest.mark.slow

PAGES = 8
PLAN: dict[str, Any] = {"calib": HELDOUT, "samples": PAGES}
UNSEEN = list(items("ocr"))[100:108]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The reference checkpoint's bundle of a precision."""
    here = tmp_path_factory.mktemp("precisions")

    def get(precision: str) -> Path:
        if not (here / precision).exists():
            export(export_plan(REFERENCE, here / precision, precision=precision, **PLAN))
        return here / precision

    return get


@pytest.fixture
def hybrid(bundles: Callable[[str], Path]) -> Model:
    return load(bundles("hybrid"), threads=1)


def read_to_the_end(model: Model, item: Item) -> np.ndarray:
    """Logits after the last token of a prompt, using everything that the model has cached."""
    prompt = model.prompt(item.messages)
    return model.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), GenerationStats())[0]


def test_prompts_are_read_as_int8_reads_them(bundles: Callable[[str], Path], hybrid: Model) -> None:
    """To the bit: weights and graph are the same."""
    int8 = load(bundles("int8"), threads=1)
    for item in UNSEEN[:3]:
        assert np.array_equal(read_to_the_end(hybrid, item), read_to_the_end(int8, item))


def test_answers_are_as_good_as_those_of_int4(
    bundles: Callable[[str], Path], hybrid: Model, reference_bundle: Path
) -> None:
    reference = load(reference_bundle, threads=1)
    ours, int4 = (divergence(reference, other, UNSEEN) for other in (hybrid, load(bundles("int4"), threads=1)))
    assert ours < min(0.03, 1.5 * int4)


def test_both_graphs_scale_the_cache_alike(
    reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The int4 graph reads and writes values divided by the int8 graph's scales."""
    draw = np.random.default_rng(0).uniform

    def scale(fold: Fold, *_: Any) -> np.ndarray:
        size = int(fold.channels.max()) + 1
        return draw(0.25, 4, size).astype(np.float32) if fold.cached else np.ones(size, np.float32)

    monkeypatch.setattr(smooth, "best_scale", scale)
    export(export_plan(REFERENCE, tmp_path / "b", precision="hybrid", calib=HELDOUT, samples=2))
    assert divergence(load(reference_bundle, threads=1), load(tmp_path / "b", threads=1), UNSEEN) < 0.03


def test_forced_answers_are_run_as_generated_ones(hybrid: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accuracy report measures is what the user gets: logits of both ways, token by token."""
    item, seen = UNSEEN[0], []
    extend = hybrid.decoder.extend

    def kept(*arguments: Any) -> np.ndarray:
        rows = extend(*arguments)
        seen.append(rows[-1])
        return rows

    monkeypatch.setattr(hybrid.decoder, "extend", kept)
    answer = hybrid.generate(item.messages, 24)
    tokens = len(hybrid.token_ids(answer))
    forced = load(hybrid.bundle, threads=1).logits(item.messages, answer)
    assert tokens > 8
    assert np.abs(np.stack(seen[: tokens - 1]) - forced[1:]).max() < 0.02 * np.abs(forced).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_continues_after_the_prompt(
    checkpoint: Callable[[str, str], Path], model: Callable[[str, str, str], Model], tmp_path: Path, family: str
) -> None:
    """Answers over the int8 graph's cache are no further from float than those over int4's own."""
    source, exact = checkpoint(family, "deep"), model(family, "deep", "fp32")
    item = next(items("ocr"))
    expected = exact.logits(item.messages, item.answer)
    error = {}
    for precision in ("int4", "hybrid"):
        export(export_plan(source, tmp_path / precision, precision=precision, calib=HELDOUT, samples=4))
        ours = load(tmp_path / precision, threads=1).logits(item.messages, item.answer)
        error[precision] = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    assert error["hybrid"] < 1.2 * error["int4"]


def test_a_second_question_reuses_the_page(hybrid: Model) -> None:
    """Answers of the int4 graph leave the int8 graph's keys and values of the prompt as they are."""
    first, second = (same := [item for item in items() if item.image == UNSEEN[0].image])[0], same[-1]
    assert first.prompt != second.prompt
    fresh = read_to_the_end(load(hybrid.bundle, threads=1), second)
    hybrid.generate(first.messages, 16)
    stream = hybrid.stream(second.messages, 4)
    list(stream)
    assert stream.run.counts.reused > stream.run.counts.image
    hybrid.generate(first.messages, 16)
    assert np.abs(read_to_the_end(hybrid, second) - fresh).max() < 1e-4


def test_it_is_two_graphs_over_one_table(bundles: Callable[[str], Path]) -> None:
    """What both graphs have in common is stored once."""
    directory = bundles("hybrid")
    manifest = read_manifest(directory)
    assert manifest.graphs["llm"].precision == "int8 in blocks of 128, int8 × int8, else fp16"
    assert manifest.graphs["llm_decode"].precision == "int4 in blocks of 128, int8 in blocks of 128, else fp16"
    assert "  llm_decode int4" in describe(manifest)
    graph = onnx.load(directory / "llm_decode.onnx", load_external_data=False).graph
    files = {
        tensor.name: next(item.value for item in tensor.external_data if item.key == "location")
        for tensor in graph.initializer
        if tensor.external_data
    }
    assert files["model.embed_tokens.codes"] == files["model.norm.weight"] == "llm.onnx.data"
    assert files["model.layers.0.mlp.up_proj.codes"] == "llm_decode.onnx.data"
    assert files["model.layers.0.input_layernorm.weight"] == "llm_decode.onnx.data"  # the other one is smoothed


def test_a_killed_calibration_resumes(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    plan = export_plan(REFERENCE, tmp_path / "bundle", precision="hybrid", **PLAN)
    with stopped_after("llm_decode", 2):
        export(plan)
    with quantized_stages() as quantized:
        export(plan)
    assert quantized == [("llm_decode", 2), ("llm_decode", 3)]
    assert hashes(tmp_path / "bundle") == hashes(bundles("hybrid"))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def other_port(here: Path) -> None:
    """The manifest says that the graph for decoding has another vocabulary."""
    manifest = json.loads((here / MANIFEST).read_bytes())
    manifest["graphs"]["llm_decode"]["outputs"][0]["shape"][-1] += 1
    (here / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (d.delete("llm_decode.onnx"), r"llm_decode\.onnx: is missing from the bundle"),
        (d.truncate("llm_decode.onnx.data"), r"llm_decode\.onnx\.data: is truncated"),
        (d.garbage("llm_decode.onnx"), r"llm_decode\.onnx: is not an ONNX model"),
        (other_port, r"geometry and graphs disagree: llm_decode"),
        (
            d.edit("bundle.json", **{"files__llm_decode.onnx": d.REMOVE}),
            r"llm_decode\.onnx: is used but not listed",
        ),
        (d.edit("bundle.json", graphs__llm=d.REMOVE), r"has no graph llm"),
        (d.edit("bundle.json", graphs__draft={}), r"is damaged: .*graphs"),
    ],
)
def test_a_damaged_third_graph_is_refused(
    bundles: Callable[[str], Path], tmp_path: Path, damage: d.Damage, says: str
) -> None:
    copy = Path(shutil.copytree(bundles("hybrid"), tmp_path / "bundle"))
    damage(copy)
    with pytest.raises(BundleError, match=says):
        load(copy, threads=1)


def test_bundles_of_older_schemas_are_read(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundles("int8"), tmp_path / "bundle"))
    d.edit("bundle.json", schema_version=2)(copy)
    assert read_manifest(copy).schema_version == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "hybrid", "vision_precision": "hybrid"}, "'hybrid' is not supported"),
    ],
)
def test_plans_that_cannot_be_done(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        export(export_plan(REFERENCE, tmp_path / "b", **{**PLAN, **options}))
