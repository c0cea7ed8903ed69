"""What a run with intermediate values leaves behind."""

from __future__ import annotations

import msgspec


class Taps(msgspec.Struct):
    """Stages in order of the chain, the places of image tokens in the prompt, and the prompt's length."""

    stages: list[str]
    image_tokens: list[int]
    tokens: int


def file_name(stage: str) -> str:
    """A stage's name as a file may have it."""
    return stage.replace("/", "~")
