"""Boxes and points drawn on a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime import drawing
from qvl_runtime.drawing import check_writable
from qvl_runtime.errors import MediaError
from qvl_runtime.grounding import Box, Point


@pytest.mark.parametrize("label", ["total", "合计", ""])
def test_drawing(label: str, tmp_path: Path) -> None:
    page = Image.new("RGB", (400, 300), "white")
    out = tmp_path / "drawn.png"
    drawing.save(drawing.draw(page, [Box(label, 100, 100, 200, 150), Point("p", 300, 200)]), out)
    drawn = np.asarray(Image.open(out)).astype(int)
    assert drawn.shape == (300, 400, 3)
    assert (drawn[100, 110:190] != 255).any(axis=1).all() and (drawn[110:140, 200] != 255).any(axis=1).all()
    assert (drawn[120, 120:180] == 255).all(), "the inside of a box stays readable"
    assert (drawn[200, 300] != 255).any()
    assert (drawn[80:99, 100:140] != 255).any() == bool(label)
    assert np.asarray(page).min() == 255, "the page itself is left alone"
    assert [file.name for file in tmp_path.iterdir()] == ["drawn.png"]


def test_drawings_that_cannot_be_written(tmp_path: Path) -> None:
    page = Image.new("RGB", (40, 30))
    with pytest.raises(MediaError, match=r"out\.txt: does not have the extension of an image format"):
        drawing.save(page, tmp_path / "out.txt")
    with pytest.raises(MediaError, match="cannot be written"):
        drawing.save(page, tmp_path / "missing" / "out.png")
    (tmp_path / "old.png").write_text("kept")
    with pytest.raises(MediaError, match="cannot be written"):
        drawing.save(_Broken(page), tmp_path / "old.png")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("old.png", "kept")]


class _Broken(Image.Image):
    """An image whose saving fails half way."""

    def __init__(self, page: Image.Image) -> None:
        super().__init__()

    def save(self, fp: Any, format: str | None = None, **_: Any) -> None:
        Path(fp).write_bytes(b"half")
        raise OSError("disk full")


@pytest.mark.skipif(not os.access("/proc", os.X_OK), reason="there is no /proc")
def test_a_directory_that_takes_no_files_is_refused() -> None:
    with pytest.raises(MediaError, match=r"^/proc/x\.png: cannot be written"):
        check_writable(Path("/proc/x.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_replaced_by_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(MediaError, match=r"x\.png: is a device or a pipe"):
        check_writable(tmp_path / "x.png")


def test_an_image_too_large_for_its_format_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"x\.webp: cannot be written"):
        drawing.save(Image.new("1", (20_000, 2)), tmp_path / "x.webp")
    assert not list(tmp_path.iterdir())
