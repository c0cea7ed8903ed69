"""Everything that cannot be exported is refused before the long work, much of it before the checkpoint is located."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvl_export import ExportPlan, export
from qvl_export.common.progress import NullProgress
from qvl_export.errors import ExportError
from qvl_export.exporting.pipeline import sensitivity
from qvl_export.exporting.resolve import resolve
from qvl_export.graph import weights
from qvl_export.quant.quantizer import Quantizer
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

PAGE = HELDOUT / "simple_0000.png"
GPTQ = Path(__file__).parents[1] / "quant" / "gptq" / "qwen2_vl_g32_sym"
Checkpoints = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotate": True, "max_kl": 0.1}, "--rotate cannot be combined with --save-gptq, --max-kl or --max-size"),
        ({"precision": "int4", "rotate": True, "save_gptq": "g"}, "--rotate cannot be combined with --save-gptq"),
        ({"precision": "int8", "calib": ""}, "the path of calibration pages is empty"),
        ({"precision": "int8", "calib": [PAGE, ""]}, "the path of calibration pages is empty"),
        ({"precision": "int4", "save_gptq": ""}, "the output path is empty"),
        ({"precision": "int8", "samples": 0}, "--samples must be >= 1, got 0"),
        ({"precision": "int8", "threads": 0}, "--threads must be >= 1, got 0"),
        ({"precision": "int8", "ray": "localhost:1"}, "localhost:1: no Ray cluster answers"),
        ({"target": "gpu"}, "target 'gpu' is not supported"),
        ({"accuracy_level": 3}, "accuracy level 3 is not supported"),
        ({"compute_capability": "86"}, "target 'cpu' builds no engines"),
        ({"target": "tensorrt", "profile": "books"}, "profile 'books' is not known"),
        ({"target": "tensorrt", "compute_capability": "Ada"}, "'Ada' are not numbers"),
        ({"layout": "gguf"}, "layout 'gguf' is not supported"),
    ],
    ids=str,
)
def test_before_the_checkpoint_is_located(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    pages = {"calib": PAGE} if "int" in options.get("precision", "") else {}
    with pytest.raises(ExportError, match=message):
        export(export_plan(tmp_path / "nowhere", tmp_path / "b", **{**pages, **options}))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "small",
            {"target": "portable", "vision_precision": "int4", "block_size": 64},
            r"linears of \d+ columns are not made of whole blocks of 64 \(another --block-size",
        ),
        (REFERENCE, {"max_size": 1_000_000}, "no bundle fits in 1,000,000 bytes"),
        (GPTQ, {"precision": "int4"}, "the checkpoint is already quantized"),
    ],
    ids=str,
)
def test_before_the_weights_are_read(
    checkpoint: Checkpoints,
    source: str | Path,
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "check_finite", lambda *_: pytest.fail("read the weights first"))
    monkeypatch.setattr(Quantizer, "tower", lambda *_: pytest.fail("calibrated first"))
    found = source if isinstance(source, Path) else checkpoint("qwen2_5_vl", source)
    with pytest.raises(ExportError, match=message):
        export(export_plan(found, tmp_path / "b", calib=PAGE, **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_pixels": 0}, r"^min_pixels 0 is too small \(an image token has 784 pixels\)"),
        ({"max_pixels": 0}, "^max_pixels 0 is too small"),
        ({"min_pixels": 0, "max_pixels": 0}, "^min_pixels 0 and max_pixels 0 are too small"),
        ({"max_length": 0}, r"--max-length 0 is not within the model's (\d+) positions \(give 2 to \1\)"),
    ],
    ids=str,
)
def test_zero_is_not_the_default(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        resolve(export_plan(REFERENCE, tmp_path / "b", **options), NullProgress())


def test_empty_paths_are_not_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for paths, message in (
        ((REFERENCE, ""), "the output path is empty"),
        (("", "b"), "the checkpoint's name is empty"),
    ):
        with pytest.raises(ExportError, match=message):
            export(export_plan(*paths))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", [export, sensitivity])
def test_a_plan_and_a_progress_of_a_wrong_type_are_refused(run: Callable[..., object], tmp_path: Path) -> None:
    for plan, said in ((None, "None"), ("a", "'a'"), (ExportPlan, "<class 'qvl_export.exporting.plan.ExportPlan'>")):
        with pytest.raises(ExportError) as caught:
            run(plan)
        assert str(caught.value) == f"plan must be an instance of ExportPlan, got {said}"
    for progress in (3, 0, NullProgress):
        with pytest.raises(ExportError, match="progress must have the methods stage and advance, or be None, got "):
            run(export_plan(tmp_path / "nowhere", tmp_path / "b"), progress)


@pytest.mark.parametrize("option", ["samples", "threads"])
def test_sensitivities_need_pages_and_threads(option: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"--{option} must be >= 1, got 0"):
        sensitivity(export_plan(tmp_path / "nowhere", "", calib=PAGE, **{option: 0}))


def test_it_writes_nothing(tmp_path: Path) -> None:
    plan = export_plan(REFERENCE, tmp_path / "b", precision="hybrid", calib=PAGE, max_pixels=100_000)
    resolved = resolve(plan, NullProgress())
    assert list(resolved.precisions.items()) == [("vision", "int8"), ("llm", "int8"), ("llm_decode", "int4")]
    assert resolved.spec.image.max_pixels == 100_000 and resolved.finisher is None
    assert resolved.calibration is not None and len(resolved.calibration.pages) == 1
    assert not list(tmp_path.iterdir())


def test_a_float_export_needs_no_calibration(tmp_path: Path) -> None:
    assert resolve(export_plan(REFERENCE, tmp_path / "b"), NullProgress()).calibration is None
