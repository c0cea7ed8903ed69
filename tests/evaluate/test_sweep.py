"""`sweep`: bundles of one checkpoint at several precisions and pixel bounds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from qvl_export.errors import ExportError
from qvl_export.evaluate.sweep import SweepPlan, export_bundles, parse_pixels
from qvl_export.exporting.pipeline import NullProgress
from qvl_runtime import load
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE


def test_a_sweep_shares_weights_between_pixel_bounds(tmp_path: Path) -> None:
    plan = SweepPlan(str(REFERENCE), parse_pixels("12544, 50176"), ("fp32", "fp16"), HELDOUT, tmp_path)
    made = export_bundles(plan, NullProgress())
    assert [path.name for path in made] == ["fp32-50176", "fp32-12544", "fp16-50176", "fp16-12544"]
    few, many = load(made[1], threads=1), load(made[0], threads=1)
    assert (few.manifest.image.max_pixels, many.manifest.image.max_pixels) == (12544, 50176)
    page = Image.new("RGB", (400, 400))
    assert len(few.encode(page)) < len(many.encode(page))
    assert (made[0] / "llm.onnx.data").stat().st_ino == (made[1] / "llm.onnx.data").stat().st_ino
    files = [path / "bundle.json" for path in made]
    before = [file.stat().st_mtime_ns for file in files]
    assert export_bundles(plan, NullProgress()) == made
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_sweep_of_another_checkpoint_is_exported_again(tmp_path: Path) -> None:
    """Bundles are called by precision and pixels alone."""
    source, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(REFERENCE, source)
    plan = SweepPlan(str(source), (50176, 12544), ("fp16",), HELDOUT, out)
    first = (export_bundles(plan, NullProgress())[0] / "bundle.json").read_bytes()
    trained = source / "model.safetensors"
    content = bytearray(trained.read_bytes())
    content[-1] ^= 1
    trained.write_bytes(content)
    again = (export_bundles(plan, NullProgress())[0] / "bundle.json").read_bytes()
    assert json.loads(again)["files"] != json.loads(first)["files"]


def test_a_sweep_refuses_precisions_before_it_exports_any(tmp_path: Path) -> None:
    plan = SweepPlan(str(REFERENCE), (50176,), ("fp16", "int9"), HELDOUT, tmp_path / "out")
    with pytest.raises(ExportError, match="'int9'"):
        export_bundles(plan, NullProgress())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["200704,many", "200704,0", "200_704,50176", "²"])
def test_malformed_pixels_are_refused(text: str) -> None:
    with pytest.raises(ExportError, match="is not a list of positive whole numbers"):
        parse_pixels(text)
