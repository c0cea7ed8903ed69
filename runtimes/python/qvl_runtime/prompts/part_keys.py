"""The known keys of messages and of their parts; any other key raises a PromptError that names it.

A key that the bundle's chat template reads is known too and is passed on to it. Keys with the value None are ignored,
because datasets give every part all keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..common.checks import abbreviated
from ..errors import PromptError

Reads = Callable[[str], bool]
"""Whether the chat template reads a key."""
MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")
_PRUNE = ("prune",)
_FRAMES = ("total_pixels", "fps", "sample_fps", "nframes", "min_frames", "max_frames", "video_start", "video_end")
PART_KEYS: Mapping[str, tuple[str, ...]] = {
    "text": ("type", "text"),
    "image": ("type", "image", *_SIZES, *_PRUNE),
    "video": ("type", "video", *_SIZES, *_FRAMES, *_PRUNE),
    "image_url": ("type", "image_url", *_SIZES, *_PRUNE),
    "video_url": ("type", "video_url", *_SIZES, *_FRAMES, *_PRUNE),
}
_CONTENT_KEYS = set(PART_KEYS)
"""Keys that hold a part's content; each part has exactly one."""


def read_nothing(_key: str) -> bool:
    """The `Reads` of an unknown template: no extra key is read."""
    return False


def check_message(message: Mapping[str, Any], reads: Reads) -> None:
    """Raises PromptError for a message key that is neither known nor read by the template; empty values are allowed."""
    for key, value in message.items():
        if key not in MESSAGE_KEYS and not _empty(value) and not (isinstance(key, str) and reads(key)):
            raise _unknown("a message", key, MESSAGE_KEYS)


def _empty(value: object) -> bool:
    """Whether a value is empty, as in the `"refusal": null, "annotations": []` of assistant messages."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def extra_keys(kind: str, part: Mapping[str, Any], reads: Reads) -> dict[str, Any]:
    """Returns a part's keys that only the template reads; raises PromptError for a key that it does not read."""
    known = PART_KEYS[kind]
    extra = {key: value for key, value in part.items() if key not in known and value is not None}
    for key in extra:
        if key in _CONTENT_KEYS or not (isinstance(key, str) and reads(key)):
            raise _unknown(f"the content part of type {kind!r}", key, known)
    return extra


def _unknown(holder: str, key: object, known: Collection[str]) -> PromptError:
    import difflib  # only needed for errors

    name = abbreviated(key, 60)
    close = difflib.get_close_matches(name, known, 1)
    fix = f"did you mean {close[0]}?" if close else f"its keys are {', '.join(known)}"
    return PromptError(f"{holder} has the unknown key {name!r}", fix=fix)
