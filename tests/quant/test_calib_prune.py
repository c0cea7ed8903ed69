"""`--calib-prune`: calibration sees the pages as the runtime shows them with that rule."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer

from qvl_export import export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.quant.calibration import encode_images
from qvl_export.quant.calibration.work_dir import Work
from qvl_export.quant.calibration_data.prompts import Sampler
from qvl_export.quant.calibration_data.selection import select
from qvl_runtime import load
from qvl_runtime.bundle import read_manifest
from qvl_runtime.prune.rule import RULES, Rule
from qvl_runtime.sessions.cpu import open_vision
from qvl_runtime.templates.chat import ChatTemplate
from tests.exporter.test_pruned_parity import spotted
from tests.oracles.tiny import FREE_SIZES
from tests.plans import export_plan


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.png"
    spotted(400, 300, 1, 3).save(file)
    return file


def sampler(bundle: Path, page: Path, rule: Rule | None) -> Sampler:
    template = ChatTemplate((bundle / "chat_template.jinja").read_text("utf-8"), bundle)
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    return Sampler(select(page, 1), lambda _: None, read_manifest(bundle), template, tokenizer, rule)


@pytest.mark.parametrize("family", FREE_SIZES)
def test_samples_are_those_of_the_runtime(
    bundle: Any, checkpoint: Any, page: Path, family: str, tmp_path: Path
) -> None:
    path = bundle(family, "small", "fp32")
    vision, embeddings = open_vision(path, read_manifest(path), 1), Checkpoint(checkpoint(family, "small")).tensors
    table = next(tensor for name, tensor in embeddings.items() if name.endswith("embed_tokens.weight"))
    whole, pruned = (sampler(path, page, rule) for rule in (None, RULES["exact"]))
    with load(path, threads=1, prune="exact") as model:
        question = next(iter(pruned.pages.questions(lambda _: None)))
        parts = [{"type": "image", "image": str(page)}, {"type": "text", "text": question.prompt}]
        prompt = model.prompt([{"role": "user", "content": parts}])
        expected = np.array(model.image_features(prompt.placed[0]))
    (few,), (every,) = pruned.patches(), whole.patches()
    unit = model.manifest.image.spatial_merge_size**2
    assert few.hidden.shape[1] == unit * prompt.placed[0].span.tokens < every.hidden.shape[1]
    (tokens,) = pruned.tokens(vision, table)
    span = prompt.placed[0].span
    assert np.array_equal(tokens.hidden[0, span.start : span.end], expected[0])
    assert np.array_equal(tokens.feeds["position_ids"][:, 0, : len(prompt.ids)], prompt.positions)
    work = Work(tmp_path / "work", {"any": 1})
    (ahead,) = encode_images.encode(Here(), work, pruned.images(), path, model.manifest)
    assert np.array_equal(ahead, expected)


class Here:
    """A pool that runs its jobs in this process."""

    machines, cores = 1, 1

    def run(self, module: str, jobs: list[Any], threads: int, advance: Any) -> None:
        for job in jobs:
            encode_images.run(job)


def test_bundles(checkpoint: Any, page: Path, tmp_path: Path) -> None:
    """The rule is recorded and changes what was measured; `off` changes nothing."""
    found = {}
    for rule in (None, "off", True):
        options = {"precision": "int8", "calib": page, "samples": 1, "calib_prune": rule}
        out = tmp_path / str(rule)
        export(export_plan(checkpoint("qwen2_5_vl", "small"), out, **options))
        manifest = read_manifest(out)
        assert manifest.provenance.options.get("calib_prune") == (
            None if rule is None else "scan" if rule is True else rule
        )
        assert manifest.image.prune is None
        found[rule] = [
            hashlib.sha256((out / name).read_bytes()).digest() for name in ("vision.onnx.data", "llm.onnx.data")
        ]
    assert found[None] == found["off"] != found[True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--calib-prune is for quantization (add --precision int8 or int4, or leave it out)"),
        (["--precision", "int8", "--calib-prune", "exakt"], "--calib-prune must be off, exact, scan or a number"),
    ],
)
def test_refusals(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["export", "no-such-checkpoint", str(tmp_path / "b"), "--calib-prune=scan", *options]
    )
    assert isinstance(done.exception, ExportError) and said in str(done.exception)


def test_a_model_of_one_image_size_is_refused(checkpoint: Any, page: Path, tmp_path: Path) -> None:
    plan = export_plan(checkpoint("qwen", "small"), tmp_path / "b", precision="int8", calib=page, calib_prune="scan")
    with pytest.raises(ExportError, match=r"sees every image in .* \(leave --calib-prune out\)$"):
        export(plan)
