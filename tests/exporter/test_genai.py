"""Layout `genai`: what ONNX Runtime GenAI itself answers, against `qvl_runtime` on a bundle of the same checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai as og
import pytest

from qvl_export import ExportPlan, export
from qvl_export.errors import ConfigError, ExportError, OutputError
from qvl_export.exporting.layouts import genai
from qvl_runtime import preprocess
from qvl_runtime.__main__ import main as runtime_main
from qvl_runtime._onnxruntime.saturation import saturates
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.model import Model, load
from qvl_runtime.preprocess import patchify
from tests.conftest import REFERENCE, Bundles, Loader
from tests.exporter.test_parity import image
from tests.heldout import character_error_rate, items
from tests.oracles.tiny import SHAPES
from tests.plans import export_plan

Checkpoints = Callable[[str, str], Path]
Directory = Callable[[str, str, str], Path]
Pictures = Callable[[str], list[Path]]
GPTQ = Path(__file__).parents[1] / "quant" / "gptq" / "qwen2_vl_g32_sym"
STEPS = 24
PIXELS = {"one": [(150, 90)], "several": [(30, 500), (310, 240), (56, 56)], "same": [(112, 84)] * 2, "none": []}
BOUNDS = {"large": [(2400, 1700)], "small": [(40, 31)]}
"""Images above and below the checkpoint's bounds."""
PROMPT = "What is the total?"


@pytest.fixture(scope="session")
def directory(checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Directory:
    """The directory exported from a checkpoint at a precision."""
    cache: dict[tuple[str, str, str], Path] = {}

    def get(family: str, shape: str, precision: str) -> Path:
        key = family, shape, precision
        if key not in cache:
            cache[key] = tmp_path_factory.mktemp("genai") / "-".join(key)
            export(ExportPlan(checkpoint(family, shape), cache[key], precision=precision, layout="genai"))
        return cache[key]

    return get


@dataclass
class Answer:
    """The results of that runtime for images and a prompt: its inputs, its first logits, its greedy tokens."""

    inputs: Any
    logits: np.ndarray
    tokens: list[int]


def answer(directory: Path, images: list[Path], prompt: str, steps: int = STEPS) -> Answer:
    model = og.Model(str(directory))
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
    messages = json.dumps([{"role": "user", "content": content}])
    text = og.Tokenizer(model).apply_chat_template(messages, add_generation_prompt=True)
    opened = og.Images.open(*map(str, images)) if images else None
    inputs = model.create_multimodal_processor()(text, images=opened)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=inputs["input_ids"].shape()[1] + steps)
    generator = og.Generator(model, parameters)
    generator.set_inputs(inputs)
    logits, tokens = generator.get_output("logits").copy(), []
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return Answer(inputs, logits[0, -1], tokens)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Files of the images of one of PIXELS."""

    def make(kind: str) -> list[Path]:
        paths = []
        for seed, (width, height) in enumerate({**PIXELS, **BOUNDS}[kind]):
            paths.append(tmp_path / f"{seed}.png")
            image(width, height, seed).save(paths[-1])
        return paths

    return make


def messages(images: list[Path], prompt: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": str(path)} for path in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


def ours(model: Model, images: list[Path], prompt: str, steps: int = STEPS) -> tuple[np.ndarray, list[int]]:
    """Logits of the prompt's last token and greedy tokens without a stop token, nothing cached as on the other side."""
    asked = messages(images, prompt)
    prompted = model.prompt(asked, reserve=steps)
    model.clear()
    logits = model.decoder.prefill(prompted, np.array([len(prompted.ids) - 1]), GenerationStats())
    model.clear()
    stream = model.stream(asked, max_new_tokens=steps)
    list(stream)
    return logits[0], stream.run.tokens


def assert_same_answers(directory: Path, runtime: Model, files: list[Path], prompt: str, steps: int = STEPS) -> None:
    theirs = answer(directory, files, prompt, steps)
    logits, tokens = ours(runtime, files, prompt, steps)
    assert np.abs(theirs.logits - logits).max() <= 1e-3
    assert [token for token in theirs.tokens if token not in runtime.manifest.tokens.stop] == tokens


@pytest.mark.slow
@pytest.mark.parametrize("family", genai.TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", PIXELS)
def test_it_answers_as_we_do(
    directory: Directory, model: Loader, pictures: Pictures, family: str, shape: str, kind: str
) -> None:
    """DeepStack and windows included; images of one size and of several."""
    files = pictures(kind)
    assert_same_answers(directory(family, shape, "fp32"), model(family, shape, "fp32"), files, PROMPT)


@pytest.fixture
def rounded_as_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are rescaled in float32 there, in float64 here: the last bit of some differs, and with it int8 codes."""

    def table(geometry: ImageGeometry) -> np.ndarray:
        scaled = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
        mean, std = (np.array(v, np.float32)[:, None] for v in (geometry.image_mean, geometry.image_std))
        return np.asarray((scaled[None] - mean) / std)

    monkeypatch.setattr(preprocess, "normalization_table", table)


@pytest.mark.slow
@pytest.mark.usefixtures("rounded_as_theirs")
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("kind", ["one", "several", "large", "small"])
def test_its_tokens_and_pixels_are_ours(
    directory: Directory, model: Loader, pictures: Pictures, family: str, kind: str
) -> None:
    """To the bit but for that; patches of several images come with padding between them."""
    files, runtime = pictures(kind), model(family, "small", "fp32")
    inputs = answer(directory(family, "small", "fp32"), files, PROMPT, 1).inputs
    prompt = runtime.prompt(messages(files, PROMPT))
    assert inputs["input_ids"].as_numpy()[0].tolist() == prompt.ids.tolist()
    ours = [patchify(item.media.frames, runtime.manifest.image, item.grid) for item in prompt.placed]
    assert inputs["image_grid_thw"].as_numpy().tolist() == [[p.grid.t, p.grid.h, p.grid.w] for p in ours]
    rows = inputs["pixel_values"].as_numpy()
    for patches, padded in zip(ours, rows.reshape(len(ours), -1, rows.shape[-1]), strict=True):
        pixels = patches.pixel_values[0]
        assert np.array_equal(padded[: len(pixels)], pixels)


def quantized(tmp_path: Path, checkpoint: Path, **options: Any) -> tuple[Path, Model]:
    """The directory and the bundle of one plan."""
    for layout in ("genai", "qvl"):
        export(export_plan(checkpoint, tmp_path / layout, layout=layout, **options))
    if saturates():
        ask_for_exact_products(tmp_path / "genai")
    return tmp_path / "genai", load(tmp_path / "qvl", threads=1)


def ask_for_exact_products(directory: Path) -> None:
    """What docs/interop.md says to do on x86 without VNNI."""
    config = json.loads((directory / "genai_config.json").read_text("utf-8"))
    config["model"]["decoder"]["session_options"]["session.x64quantprecision"] = "1"
    (directory / "genai_config.json").write_text(json.dumps(config), "utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("rounded_as_theirs")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2_5_vl", {"precision": "int8", "samples": 2}),
        ("qwen3_vl", {"precision": "int4", "samples": 2}),
        ("qwen3_vl_moe", {"precision": "int8", "samples": 2}),
        ("qwen3_vl_moe", {"precision": "int4", "samples": 2}),
        ("qwen3_vl", {"rotate": True}),
        ("qwen2_vl", {"precision": "fp16"}),
    ],
    ids=str,
)
def test_precisions_are_those_of_the_bundle(
    checkpoint: Checkpoints, pictures: Pictures, tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    made = quantized(tmp_path, checkpoint(family, "small"), **options)
    assert_same_answers(*made, pictures("several"), PROMPT)


def test_a_gptq_checkpoint_is_used_unchanged(pictures: Pictures, tmp_path: Path) -> None:
    assert_same_answers(*quantized(tmp_path, GPTQ), pictures("one"), PROMPT)


def test_the_reference_checkpoint_reads(reference_bundle: Path, tmp_path: Path) -> None:
    """Held-out pages, whole answers."""
    export(ExportPlan(REFERENCE, tmp_path / "out", layout="genai"))
    model = og.Model(str(tmp_path / "out"))
    questions = list(items("ocr", 3))
    theirs = [og.Tokenizer(model).decode(answer(tmp_path / "out", [q.image], q.prompt, 160).tokens) for q in questions]
    runtime = load(reference_bundle, threads=1)
    assert theirs == [runtime.generate(q.messages, max_new_tokens=160) for q in questions]
    assert character_error_rate(theirs, [q.answer for q in questions]) <= 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("rounded_as_theirs")
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_quantized_reference_checkpoint_reads(precision: str, tmp_path: Path) -> None:
    directory, runtime = quantized(tmp_path, REFERENCE, precision=precision, samples=4)
    for question in items("ocr", 4):
        assert_same_answers(directory, runtime, [question.image], question.prompt, 160)


@pytest.mark.parametrize(("family", "shape"), [("qwen3_vl", "small"), ("qwen2_5_vl", "deep")])
def test_weights_are_stored_once(directory: Directory, bundle: Bundles, family: str, shape: str) -> None:
    """No data file but the bundle's; both graphs of a tied model read one table."""
    ours, theirs = bundle(family, shape, "fp16"), directory(family, shape, "fp16")
    for name in ("vision.onnx.data", "llm.onnx.data"):
        assert (theirs / name).read_bytes() == (ours / name).read_bytes()
    assert sorted(path.name for path in theirs.glob("*.onnx*")) == [
        "embedding.onnx",
        "llm.onnx.data",
        "text.onnx",
        "vision.onnx",
        "vision.onnx.data",
    ]
    places = [table_of(theirs / f"{graph}.onnx") for graph in ("embedding", "text")]
    assert places[0] and (places[1] == places[0] if SHAPES[shape].tied else places[1] is None)


def table_of(graph: Path) -> dict[str, str] | None:
    """Location of the graph's embedding table, which is small enough to be multiplied in one piece."""
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        if tensor.name in ("model.embed_tokens.weight", "model.embed_tokens.weight.0"):
            return {entry.key: entry.value for entry in tensor.external_data}
    return None


@pytest.mark.parametrize("family", genai.TYPES)
def test_the_checker_accepts_its_graphs(directory: Directory, family: str) -> None:
    for name in ("vision", "embedding", "text"):
        path = directory(family, "deep", "fp32") / f"{name}.onnx"
        onnx.checker.check_model(str(path), full_check=False)
        onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)


@pytest.mark.parametrize(("command", "prompt"), [("inspect", []), ("run", ["Read."])])
def test_it_is_not_a_bundle_and_says_so(
    directory: Directory, command: str, prompt: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime_main([command, str(directory("qwen2_5_vl", "small", "fp32")), *prompt]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is a directory for ONNX Runtime GenAI, not a bundle" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "gguf"}, "layout 'gguf' is not supported"),
        ({"layout": "genai", "precision": "hybrid"}, "takes a single graph of the language model"),
    ],
)
def test_unsupported_exports_are_refused_early(
    checkpoint: Checkpoints, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export(export_plan(checkpoint("qwen2_5_vl", "small"), tmp_path / "out", **options))
    assert not list(tmp_path.iterdir())


def test_other_families_and_targets_are_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not support family qwen \(supported: qwen2_5_vl, "):
        export(ExportPlan(checkpoint("qwen", "small"), tmp_path / "out", layout="genai"))
    with pytest.raises(ExportError, match="does not support target portable"):
        export(ExportPlan(checkpoint("qwen2_vl", "small"), tmp_path / "out", layout="genai", target="portable"))
    assert not list(tmp_path.iterdir())


def test_force_replaces_its_own_kind(checkpoint: Checkpoints, tmp_path: Path) -> None:
    source, out = checkpoint("qwen2_5_vl", "small"), tmp_path / "out"
    export(ExportPlan(source, out, layout="genai"))
    with pytest.raises(OutputError, match="already exists"):
        export(ExportPlan(source, out, layout="genai"))
    with pytest.raises(OutputError, match="exists and is not a bundle"):
        export(ExportPlan(source, out, force=True))
    export(ExportPlan(source, out, layout="genai", force=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_without_vision_start_is_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint("qwen2_5_vl", "small"), tmp_path / "checkpoint")
    text = (copy / "tokenizer.json").read_text("utf-8").replace("<|vision_start|>", "<|image_start|>")
    (copy / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"has no token <\|vision_start\|>"):
        export(ExportPlan(copy, tmp_path / "out", layout="genai"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
