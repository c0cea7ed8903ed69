"""`Stream`: an answer as text, piece by piece, while its tokens are generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from ..prompts.prompt import Prompt
from .generate import GenerationStats, Halt
from .stop_strings import StopStrings

NO_MARKS: Mapping[int, str] = MappingProxyType({})


class Stream(Iterator[str]):
    """Iterates over pieces of the answer to `prompt`; `run` holds its statistics, updated as they are generated.

    Special tokens are skipped, except for `marks` (id → text), which are part of an answer. The answer ends before the
    first `stop` string, closed with what `ending` gives for its text. Callers that do not read to the end must call
    `close()` or use the stream in a `with`.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        tokenizer: Tokenizer,
        stats: GenerationStats,
        prompt: Prompt | None = None,
        marks: Mapping[int, str] = NO_MARKS,
        stop: Sequence[str] = (),
        halt: Halt | None = None,
        ending: Callable[[str], str] | None = None,
    ) -> None:
        self._tokens, self._tokenizer, self.run, self._marks = tokens, tokenizer, stats, marks
        self.prompt = prompt
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop, self._halt, self._ended = StopStrings(stop), halt or Halt(), False
        self._ending, self._given = ending, list[str]()
        self._turn = threading.RLock()  # held by the thread that reads or closes it

    def __next__(self) -> str:
        with self._turn:
            return self._next()

    def _next(self) -> str:
        while not self._ended:
            piece = self._piece()
            if piece is None:
                self._ended = True
                text = self._stop.rest()
            else:
                text = self._stop.feed(piece)
            if self._stop.found is not None:
                text += self._stopped(text)
            if text:
                self._given.append(text)
                return text
        raise StopIteration

    def _stopped(self, last: str) -> str:
        """Ends the answer at a stop string; returns what closes it after the `last` piece."""
        self.run.finish_reason, self.run.stop_string = "stop", self._stop.found
        self.close()
        if self._ending is None:
            return ""
        self.run.forced = self._ending("".join(self._given) + last)
        return self.run.forced

    def _piece(self) -> str | None:
        """Returns the next whole characters, or None after the last."""
        for token in self._tokens:
            if piece := self._marks.get(token) or self._decoder.step(self._tokenizer, token):
                return str(piece)
        return None

    def close(self) -> None:
        """Ends the answer; `run.finish_reason` is then "cancelled", unless it had already ended.

        If another thread is reading, the answer ends at its next token. May be called more than once.
        """
        self._halt.cancel()
        if not self._turn.acquire(blocking=False):  # another thread is generating a token
            return
        try:
            self._close()
        finally:
            self._turn.release()

    def _close(self) -> None:
        try:
            if close := getattr(self._tokens, "close", None):
                close()
        except ValueError:  # closed by a signal handler in the middle of a token
            return
        self._ended = True
        self.run.finish_reason = self.run.finish_reason or "cancelled"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
