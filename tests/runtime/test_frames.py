"""The frames of a video that `--video` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_runtime.cli.frames import looks_like_media, video_source
from qvl_runtime.errors import MediaError


def test_a_file_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "take[1].mp4").write_bytes(b"")
    assert video_source(str(tmp_path / "take[1].mp4")) == str(tmp_path / "take[1].mp4")


@pytest.mark.parametrize("name", ["*\0", "*\ud800", "[", "**"])
def test_patterns_that_no_file_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="matches no file"):
        video_source(name)


def test_frames_are_in_natural_order(tmp_path: Path) -> None:
    names = ["f2.png", "f10.png", "F1.png", "10.png", "9.png"]
    for name in (*names, "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    expected = [str(tmp_path / name) for name in ("9.png", "10.png", "F1.png", "f2.png", "f10.png")]
    assert video_source(str(tmp_path)) == expected
    assert video_source(str(tmp_path / "*.png")) == expected


@pytest.mark.parametrize(
    ("text", "media"),
    [
        ("page.png", True),
        ("scans/film.MP4", True),
        ("page.pdf", False),
        ("What is in page.png", False),
        ("page.png?", False),
        ("Is it 3.5", False),
    ],
)
def test_names_of_media_are_not_questions(text: str, media: bool) -> None:
    assert looks_like_media(text) == media
