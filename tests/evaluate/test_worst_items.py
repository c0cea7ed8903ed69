"""Worst items on the page: marked differences, pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from qvl_export.evaluate.report.worst_items import THUMBNAIL, mark_differences, thumbnail


def test_differences_are_marked_and_the_rest_is_escaped() -> None:
    assert mark_differences("a<b", "a<c") == ("a&lt;<del>b</del>", "a&lt;<ins>c</ins>")
    assert mark_differences("ab", "b") == ("<del>a</del>b", "b")
    assert mark_differences("", "x") == ("", "<ins>x</ins>")


def test_a_thumbnail_is_small_and_comes_with_the_size_of_the_page(tmp_path: Path) -> None:
    Image.new("RGB", (2 * THUMBNAIL, THUMBNAIL)).save(tmp_path / "p.png")
    picture, size = thumbnail(tmp_path / "p.png")
    assert picture.startswith("data:image/webp;base64,") and size == (2 * THUMBNAIL, THUMBNAIL)


def test_a_page_that_cannot_be_read_has_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"no image")
    assert thumbnail(tmp_path / "p.png") == ("", None)
