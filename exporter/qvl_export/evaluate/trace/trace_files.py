"""The files of a traced run: one array per stage, and a description."""

from __future__ import annotations

import msgspec

TRACE_FILE = "trace.json"


class TraceInfo(msgspec.Struct):
    """Stages in run order, the positions of image tokens in the prompt, and the prompt's length."""

    stages: list[str]
    image_tokens: list[int]
    tokens: int


def file_name(stage: str) -> str:
    """Returns a stage's name in a form that is valid as a file name."""
    return stage.replace("/", "~")
