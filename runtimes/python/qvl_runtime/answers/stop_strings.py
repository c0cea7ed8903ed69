"""Finds stop strings in a streamed answer; no part of them is emitted."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Emits the pieces of an answer up to the first complete stop string, which may span several tokens.

    Text that may still become a stop string is held back. `found` is the string that ended the answer.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings, self._held = strings, ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Returns the text that certainly belongs to the answer and was not returned yet."""
        text = self._held + piece
        ends = [(text.find(string) + len(string), -len(string)) for string in self._strings if string in text]
        if ends:
            end, length = min(ends)  # the first to be complete, and the longest of these
            self._held, self.found = "", text[end + length : end]
            return text[: end + length]
        kept = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Returns the text held back, once the answer has ended without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `string`."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if string.startswith(text[len(text) - size :])), 0)
