"""`Stream`: an answer as text, piece by piece, while its tokens come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from .generate import Run
from .prompt import Prompt

NO_MARKS: Mapping[int, str] = MappingProxyType({})


class Stream(Iterator[str]):
    """Pieces of the answer to `prompt`; `run` fills as they come.

    Special tokens are left out, except for `marks` (id → text), which are part of an answer.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        tokenizer: Tokenizer,
        run: Run,
        prompt: Prompt | None = None,
        marks: Mapping[int, str] = NO_MARKS,
    ) -> None:
        self._tokens, self._tokenizer, self.run, self._marks = tokens, tokenizer, run, marks
        self.prompt = prompt
        self._decoder = DecodeStream(skip_special_tokens=True)

    def __next__(self) -> str:
        for token in self._tokens:
            if piece := self._marks.get(token) or self._decoder.step(self._tokenizer, token):
                return str(piece)
        raise StopIteration
