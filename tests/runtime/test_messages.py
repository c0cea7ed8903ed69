"""Messages of a command line: the order of their parts, and options without their media."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvl_runtime.cli.messages import MediaOptions, build_messages
from qvl_runtime.errors import MediaError, PromptError
from tests.pdfs import text_pdf


def test_images_come_before_pages_of_pdfs_videos_and_the_prompt(tmp_path: Path) -> None:
    pdf = text_pdf(tmp_path / "a.pdf", [["one"], ["two"], ["three"]])
    media = MediaOptions(image=("b.png", "a.png"), pdf=(str(pdf),), pages="1,3", video=("film.mp4",))
    system, user = build_messages(media, "Read.", "Be brief.")
    assert system == {"role": "system", "content": "Be brief."} and user["role"] == "user"
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["image"] * 4 + ["video", "text"]
    assert [part["image"] for part in user["content"][:2]] == ["b.png", "a.png"]
    assert user["content"][-1]["text"] == "Read."


def test_a_message_may_be_empty_of_either() -> None:
    assert build_messages(MediaOptions(), "Hi") == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert build_messages(MediaOptions(), None, "") == [
        {"role": "system", "content": ""},
        {"role": "user", "content": []},
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, {"fps": 2.0}), ({"fps": 0.5, "max_frames": 8}, {"fps": 0.5, "max_frames": 8})],
)
def test_options_of_a_video(given: dict[str, Any], expected: dict[str, Any]) -> None:
    (message,) = build_messages(MediaOptions(video=("a.mp4",), **given), None)
    assert message["content"] == [{"type": "video", "video": "a.mp4", **expected}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pages": "1"}, "--pages needs --pdf"),
        ({"fps": 1.0}, "--fps needs --video"),
        ({"max_frames": 3, "image": ("a.png",)}, "--max-frames needs --video"),
    ],
)
def test_options_without_their_media_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        build_messages(MediaOptions(**given), "Read.")


def test_a_pdf_is_a_file() -> None:
    with pytest.raises(MediaError, match="is not a path"):
        build_messages(MediaOptions(pdf=("data:application/pdf;base64,AAAA",)), "Read.")
