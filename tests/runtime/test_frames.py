"""The frames of a video that `--video` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_runtime.cli.frames import video_source
from qvl_runtime.errors import MediaError


def test_a_file_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "take[1].mp4").write_bytes(b"")
    assert video_source(str(tmp_path / "take[1].mp4")) == str(tmp_path / "take[1].mp4")


@pytest.mark.parametrize("name", ["*\0", "*\ud800", "[", "**"])
def test_patterns_that_no_file_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="matches no file"):
        video_source(name)
