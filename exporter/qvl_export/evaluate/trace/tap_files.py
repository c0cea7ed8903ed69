"""The files of a run that keeps intermediate values."""

from __future__ import annotations

import msgspec


class Taps(msgspec.Struct):
    """Stages in order of the chain, the positions of image tokens in the prompt, and the prompt's length."""

    stages: list[str]
    image_tokens: list[int]
    tokens: int


def file_name(stage: str) -> str:
    """Returns a stage's name in a form that is valid as a file name."""
    return stage.replace("/", "~")
