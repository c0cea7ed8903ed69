"""Weights in files of a bounded size, as browsers need them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qvl_export import ExportPlan, export
from qvl_export.graph.weight_files import ALIGNMENT, Place, WeightFiles
from qvl_export.targets import web
from qvl_runtime.bundle import verify
from qvl_runtime.cli.describe import describe
from qvl_runtime.model import load

MOST = 3 * ALIGNMENT


def placed(data: Path, lengths: list[int], most: int | None) -> tuple[list[Place], dict[str, str]]:
    """Where weights of these lengths begin, whose bytes are their numbers, and the hashes of the files."""
    with WeightFiles(data, most) as files:
        places = []
        for number, length in enumerate(lengths):
            places.append(files.place(length))
            files.write(bytes([number]) * length)
    return places, files.hashes


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([5, 5000, 9], None, [("w", 0), ("w", ALIGNMENT), ("w", 3 * ALIGNMENT)]),
        ([MOST, 1], MOST, [("w", 0), ("w.1", 0)]),
        ([MOST + 1, 1, 1], MOST, [("w", 0), ("w.1", 0), ("w.1", ALIGNMENT)]),
        ([1, MOST, 1], MOST, [("w", 0), ("w.1", 0), ("w.2", 0)]),
        ([1, 2 * ALIGNMENT], MOST, [("w", 0), ("w", ALIGNMENT)]),
        ([1, 2 * ALIGNMENT + 1], MOST, [("w", 0), ("w.1", 0)]),
    ],
)
def test_weights_go_on_in_further_files(
    tmp_path: Path, lengths: list[int], most: int | None, expected: list[tuple[str, int]]
) -> None:
    places, hashes = placed(tmp_path / "w", lengths, most)
    assert places == expected
    for number, (place, length) in enumerate(zip(places, lengths, strict=True)):
        stored = (tmp_path / place.file).read_bytes()[place.offset : place.offset + length]
        assert stored == bytes([number]) * length
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.iterdir()}
    assert hashes == files


def test_a_bundle_in_several_files_is_the_same(
    checkpoint: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, logits = checkpoint("qwen2_5_vl", "small"), []
    for name, most in (("one", web.LARGEST_FILE), ("several", 320_000)):
        monkeypatch.setattr(web, "LARGEST_FILE", most)
        manifest = export(ExportPlan(source, tmp_path / name, precision="fp32", target="web"))
        with load(tmp_path / name, threads=1) as model:
            logits.append(model.logits([{"role": "user", "content": "What is the date?"}], [5, 6, 7]))
    np.testing.assert_array_equal(logits[0], logits[1])
    files = manifest.graph_files("vision")
    assert files[:3] == ["vision.onnx", "vision.onnx.data", "vision.onnx.data.1"]
    assert len(files) > 3
    assert max(manifest.files[file].size for file in files[1:]) <= 320_000
    assert set(files) <= {file.name for file in (tmp_path / "several").iterdir()}
    assert all(sound for _, sound in verify(tmp_path / "several", manifest))
    total = sum(manifest.files[file].size for file in files[1:]) / 1e6
    assert f"vision    fp32, {total:,.1f} MB" in describe(manifest)
