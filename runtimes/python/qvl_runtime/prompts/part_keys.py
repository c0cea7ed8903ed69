"""The keys of messages and of their parts: those that are known, and a PromptError that names any other.

A key that the bundle's own chat template reads is known too, and is handed on to it. A value of None is no value: data
sets give every part all keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..common.checks import brief
from ..errors import PromptError

Reads = Callable[[str], bool]
"""Whether the chat template reads a key."""
MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")
_FRAMES = ("total_pixels", "fps", "sample_fps", "nframes", "min_frames", "max_frames", "video_start", "video_end")
PARTS: Mapping[str, tuple[str, ...]] = {
    "text": ("type", "text"),
    "image": ("type", "image", *_SIZES),
    "video": ("type", "video", *_SIZES, *_FRAMES),
    "image_url": ("type", "image_url", *_SIZES),
    "video_url": ("type", "video_url", *_SIZES, *_FRAMES),
}
_CONTENTS = set(PARTS)
"""Keys that hold what a part is about: one part has one of them."""


def read_nothing(_key: str) -> bool:
    """Of a template that is not known."""
    return False


def check_message(message: Mapping[str, Any], reads: Reads) -> None:
    """Raise PromptError for a key of a message that nobody reads; those that hold nothing are harmless."""
    for key, value in message.items():
        if key not in MESSAGE and not _empty(value) and not (isinstance(key, str) and reads(key)):
            raise _unknown("a message", key, MESSAGE)


def _empty(value: object) -> bool:
    """Clients write out `"refusal": null, "annotations": []` in messages of an assistant."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def extra_keys(kind: str, part: Mapping[str, Any], reads: Reads) -> dict[str, Any]:
    """What the template wants of a part beside the known keys; raises PromptError for a key that nobody reads."""
    known = PARTS[kind]
    extra = {key: value for key, value in part.items() if key not in known and value is not None}
    for key in extra:
        if key in _CONTENTS or not (isinstance(key, str) and reads(key)):
            raise _unknown(f"the content part of type {kind!r}", key, known)
    return extra


def _unknown(holder: str, key: object, known: Collection[str]) -> PromptError:
    import difflib  # for errors alone

    name = brief(key, 60)
    close = difflib.get_close_matches(name, known, 1)
    fix = f"did you mean {close[0]}?" if close else f"its keys are {', '.join(known)}"
    return PromptError(f"{holder} has the unknown key {name!r}", fix=fix)
