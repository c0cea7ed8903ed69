"""Texts that end an answer, found in it while it comes in pieces: nothing of them is shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes on the pieces of an answer up to the first of `strings` to be complete, wherever tokens part.

    What may still become one of them is held back. `found` is the one that ended the answer.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings, self._held = strings, ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """What of the answer so far is certain to belong to it and was not passed on yet."""
        text = self._held + piece
        ends = [(text.find(string) + len(string), -len(string)) for string in self._strings if string in text]
        if ends:
            end, length = min(ends)  # the first to be complete, of these the longest
            self._held, self.found = "", text[end + length : end]
            return text[: end + length]
        kept = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was held back, when the answer has ended otherwise."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if string.startswith(text[len(text) - size :])), 0)
