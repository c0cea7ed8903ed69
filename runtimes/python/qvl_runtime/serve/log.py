"""The server's log: one JSON object per request on standard error, without anything of its content."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..common.standard_streams import say
from ..printable import printable_json

LONGEST = 2000
"""Most characters of a text of `--log-content`."""


def write(event: str, **fields: Any) -> None:
    """Prints an event with its time (UTC) and those fields that are not None."""
    given = {name: value for name, value in fields.items() if value is not None}
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **given}
    say(printable_json(json.dumps(record, ensure_ascii=False, default=str)))


def place_of(error: BaseException) -> str:
    """Returns type and places of an exception, not its message, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {places}"


def content_of(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the texts of messages, shortened, for `--log-content`; media are named by their type alone."""
    return [{"role": message.get("role"), "content": _shown(message.get("content"))} for message in messages]


def _shown(content: Any) -> Any:
    if not isinstance(content, list):
        return content[:LONGEST] if isinstance(content, str) else None
    parts = [part for part in content if isinstance(part, Mapping)]
    return [part["text"][:LONGEST] if isinstance(part.get("text"), str) else f"<{part.get('type')}>" for part in parts]
