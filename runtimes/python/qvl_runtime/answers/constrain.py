"""Constrains answers to JSON of a schema: each step allows only tokens that can still lead to it (llguidance).

An answer cut off by `max_new_tokens`, `timeout`, a loop or a stop string is closed with the shortest ending found that
the schema allows, so that it is always valid JSON. `GenerationStats.forced` holds that ending, which the model did not
generate; `finish_reason` stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..common.extras import install_fix
from ..errors import InstallError, PromptError
from . import json_schemas
from .generate import GenerationStats
from .json_schemas import Schema
from .sampling import Logits, TokenPicker

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One line, formatted as by json.dumps: with free whitespace a model could generate it forever."""
ENDINGS = b'"}],:0123456789'
"""Bytes tried first when closing an answer: the likeliest to end a value soon come first."""
DEPTHS = (16, 64, 256, 1024)
MAX_STATES = 4096
"""Closing searches for endings of at most 16 steps, then 64, …, visiting at most MAX_STATES states at each depth."""


class Grammars:
    """Creates constraints for a bundle's tokenizer; `tokenizer` is the text of its tokenizer.json."""

    def __init__(self, tokenizer: str, vocab_size: int, stop: Sequence[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise InstallError("json_schema needs llguidance", fix=install_fix("json")) from error
        self._library, self.vocab_size = llguidance, vocab_size
        self.tokenizer: LLTokenizer = llguidance.LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(stop))

    def constraint(self, schema: Schema) -> Constraint:
        """Returns a constraint for one answer; raises PromptError if `schema` is invalid or not supported."""
        value = json_schemas.read(schema)
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(json.dumps(value), defaults=LAYOUT)
        except ValueError as error:  # nested too deeply
            raise PromptError(f"json_schema cannot be used: {_first_line(str(error))}") from error
        matcher = self._library.LLMatcher(self.tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            json_schemas.check(value)
            matcher.compute_bitmask()  # a schema that cannot be followed may fail only here
        if matcher.is_error():
            raise PromptError(f"json_schema cannot be used: {_first_line(matcher.get_error())}")
        return Constraint(matcher, self)

    @cached_property
    def bytes_by_ending(self) -> list[int]:
        """Ids of the single-byte tokens, ENDINGS first."""
        order = [*ENDINGS, *(byte for byte in range(256) if byte not in ENDINGS)]
        found = (self.tokenizer.tokenize_bytes(bytes([byte])) for byte in order)
        return [ids[0] for ids in found if len(ids) == 1]


class Constraint:
    """The state of one answer's grammar: which tokens may follow."""

    def __init__(self, matcher: LLMatcher, grammars: Grammars) -> None:
        self._matcher, self._grammars = matcher, grammars
        self._mask: npt.NDArray[np.bool_] | None = None  # of the next token, once computed

    def certain(self) -> bool:
        """Returns whether the grammar allows only one token next.

        Where the text is determined, llguidance allows only the tokens that the tokenizer itself splits it into.
        """
        return int(np.count_nonzero(self._next_mask())) == 1

    def _next_mask(self) -> npt.NDArray[np.bool_]:
        if self._mask is None:
            self._mask = self._allowed(self._matcher)
        return self._mask

    def picker(self, pick: TokenPicker) -> TokenPicker:
        """Restricts `pick` to allowed tokens and advances the grammar by each chosen token."""

        def constrained(logits: Logits) -> int:
            allowed, matcher = self._next_mask(), self._matcher
            if matcher.is_error():  # the mask then allows only stop tokens, as if the answer were complete
                raise PromptError(f"json_schema cannot be followed: {_first_line(matcher.get_error())}")
            token, self._mask = pick(np.where(allowed, logits, -np.inf).astype(np.float32)), None
            if not matcher.consume_token(token):
                raise PromptError(f"json_schema cannot be followed: {_first_line(matcher.get_error())}")
            return token

        return constrained

    def with_ending(self, tokens: Iterator[int], stats: GenerationStats) -> Iterator[int]:
        """Yields the answer's tokens and, if it was cut off, the tokens that close it."""
        yield from tokens
        if stats.finish_reason not in ("length", "timeout", "loop"):
            return
        if self._matcher.is_stopped():  # the last token within the limit completed the answer
            stats.finish_reason = "stop"
            return
        ending = self._ending()
        stats.forced = self._text(ending)
        yield from ending

    def closing(self, text: str) -> str:
        """Returns what closes an answer that was cut off after `text`; the constraint cannot be used any more."""
        self._matcher.reset()
        self._matcher.consume_tokens(self._grammars.tokenizer.tokenize_bytes(text.encode()))
        return self._text(self._ending())

    def _text(self, tokens: list[int]) -> str:
        return str(self._grammars.tokenizer.decode_bytes(tokens).decode("utf-8", errors="ignore"))

    def _allowed(self, matcher: LLMatcher) -> npt.NDArray[np.bool_]:
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, count=self._grammars.vocab_size, bitorder="little").astype(bool)

    def _ending(self) -> list[int]:
        for depth in DEPTHS:
            if (ending := self._search(depth)) is not None:
                return ending
        raise PromptError("the answer was cut off and no short ending makes it valid", fix="raise --max-new-tokens")

    def _search(self, depth: int) -> list[int] | None:
        """Returns tokens that reach an accepting state in at most `depth` steps (depth first, likely endings first)."""
        stack: list[tuple[LLMatcher, int, list[int]]] = [(self._matcher, 0, [])]
        for _ in range(MAX_STATES):
            if not stack:
                return None
            matcher, steps, path = stack.pop()
            if matcher.is_accepting():
                return path
            if steps < depth:
                after = [(state, steps + 1, path + tokens) for tokens, state in self._next(matcher)]
                stack += reversed(after)
        return None

    def _next(self, matcher: LLMatcher) -> Iterator[tuple[list[int], LLMatcher]]:
        """Yields continuations and their states: the forced tokens if any, such as a field name, else single tokens."""
        forced = matcher.compute_ff_tokens()
        for tokens in [forced] if forced else self._choices(matcher):
            after = matcher.deep_copy()
            if after.consume_tokens(tokens):
                yield tokens, after

    def _choices(self, matcher: LLMatcher) -> list[list[int]]:
        allowed = self._allowed(matcher)
        single = [token for token in self._grammars.bytes_by_ending if allowed[token]]
        return [[token] for token in (single or np.flatnonzero(allowed).tolist())[:16]]


def _first_line(error: str) -> str:
    """Cuts off the state dump that llguidance appends to some errors."""
    return error.strip().partition("\n\n")[0][:200]
