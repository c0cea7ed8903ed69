"""The decoding loop: prefill in chunks over a reused prefix, then tokens as they are chosen.

A token is run once the next one depends on its logits: tokens that are certain beforehand wait for each other and run
in one call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Literal

import numpy as np

from ..common.arrays import Floats, Ints
from ..common.log import log
from ..errors import EngineError, PromptError
from ..manifest import LlmGeometry
from ..positions import text_positions
from ..prompts.prompt import PlacedMedia, Prompt, text_keys
from ..sessions.engine import Engine, Forkable, LlmInputs
from .cuts import cuts, reusable
from .logprobs import TokenLogprob
from .lookup import Lookup, NoLookup
from .pending import PendingTokens
from .sampling import TokenPicker

PREFILL_CHUNK = 1024
"""Prompt tokens per engine call: bounds activation memory at no cost in speed."""
WORTH_COPYING = 32
"""Tokens that another cache must have beyond one's own: copying fewer saves nothing."""
Encoder = Callable[[PlacedMedia], Floats]
FinishReason = Literal["stop", "length", "timeout", "loop", "cancelled", "error"]
"""Why an answer ended: stop token or string, limit, timeout, repetition, ended by the caller, or an exception."""


def never() -> bool:
    """The answer to whether the next token is certain if there is no constraint."""
    return False


class Halted(Exception):
    """Raised between two engine calls when generation is cancelled or times out."""

    def __init__(self, reason: FinishReason) -> None:
        self.reason: FinishReason = reason
        super().__init__(reason)


class Halt:
    """Cancellation and timeout of one answer, checked before each engine call; `timeout` seconds count from now."""

    def __init__(self, timeout: float | None = None) -> None:
        self._deadline = None if timeout is None else monotonic() + timeout
        self._cancelled = False

    def cancel(self) -> None:
        """Ends the answer at the next check; may be called from any thread."""
        self._cancelled = True

    def check(self) -> None:
        """Raises Halted if the answer was cancelled or has timed out."""
        if self._cancelled:
            raise Halted("cancelled")
        if self._deadline is not None and monotonic() >= self._deadline:
            raise Halted("timeout")


@dataclass
class PhaseSeconds:
    """Seconds spent in image encoding, prefill and decoding; `first_token` is counted from the start."""

    vision: float = 0.0
    prefill: float = 0.0
    first_token: float = 0.0
    decode: float = 0.0


@dataclass
class TokenCounts:
    """Numbers of prompt tokens, those reused from the KV cache, image tokens in the prompt, and generated tokens.

    `pruned` counts the image tokens that were left out of the prompt;
    `certain` of the generated tokens were the only ones that the schema allowed, so that no logits were needed;
    `accepted` of the `proposed` guesses of a lookup are generated tokens too.
    """

    prompt: int = 0
    reused: int = 0
    image: int = 0
    pruned: int = 0
    generated: int = 0
    certain: int = 0
    proposed: int = 0
    accepted: int = 0


@dataclass
class GenerationStats:
    """Statistics and outcome of one generation.

    `finish_reason` is None until it ends. `stop_token` or `stop_string` is set if that ended it (the string's tokens
    are included in `tokens`); `loop` is the number of tokens of the part that repeats if that ended it; `forced` is an
    ending that was appended and that the model did not generate. `logprobs`, if requested, are those of `tokens`.
    """

    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    stop_string: str | None = None
    loop: int = 0
    forced: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    times: PhaseSeconds = field(default_factory=PhaseSeconds)
    counts: TokenCounts = field(default_factory=TokenCounts)

    @property
    def tokens_per_second(self) -> float | None:
        """The speed from the first token to the last; None if there are no tokens after the first."""
        decoded = self.counts.generated - 1
        return decoded / self.times.decode if decoded > 0 and self.times.decode > 0 else None


class Decoder:
    """Drives an engine; keeps the keys of the cached tokens so that a shared prefix is not run again.

    With `message_ends`, the tokens that end messages, the engine has states that cannot be cut: every prefill is cut
    where `cuts` says, and only prefixes up to such a place are reused.

    Every use of the KV cache holds `lock`; hold it for a whole answer to keep other threads from interrupting it.
    """

    def __init__(
        self, engine: Engine, llm: LlmGeometry, encoder: Encoder, message_ends: Collection[int] | None = None
    ) -> None:
        self._engine, self._encoder, self._message_ends = engine, encoder, message_ends
        self._cuts: list[int] = []
        self._no_features = np.empty((1 + llm.deepstack_layers, 0, llm.hidden_size), np.float32)
        self._cached = np.empty(0, dtype=np.int64)
        self._prompt_count, self._ntk_alpha, self._closed = 0, 1.0, False
        self._settled = self._cached  # of the latest prompt, once all of it was run
        self.lock = threading.RLock()

    def clear(self) -> None:
        """Discards the KV cache's content; an unfinished stream ends with an error."""
        with self.lock:
            self._prompt_count += 1
            self._settled = self._cached = self._cached[:0]

    def close(self) -> None:
        """Discards the content and refuses later use; an unfinished stream ends with an error that says so."""
        self.clear()
        self._closed = True

    def shared(self, prompt: Prompt) -> int:
        """Returns how many of a prompt's first tokens need not run again."""
        with self.lock:
            return self._engine.resumable(min(_shared_prefix(self._cached, prompt.prefix_keys()), len(prompt.ids) - 1))

    def adopt(self, other: Decoder, prompt: Prompt) -> bool:
        """Copies what another decoder of a forked engine has of a prompt's beginning, if that saves much.

        The other may be generating an answer meanwhile. If it starts another prompt, what was copied is discarded.
        """
        if self._message_ends is not None or not isinstance(self._engine, Forkable):
            return False
        with self.lock:
            settled, keys = other._settled, prompt.prefix_keys()
            count = min(_shared_prefix(settled, keys), len(keys) - 1)
            if count < self.shared(prompt) + WORTH_COPYING:
                return False
            self._prompt_count += 1
            self._settled = self._cached = keys[:0]
            self._engine.adopt(other._engine, count)
            if other._settled is not settled:
                return False
            self._cached = keys[:count]
            return True

    def prefill(self, prompt: Prompt, wanted: Ints, stats: GenerationStats, halt: Halt | None = None) -> Floats:
        """Returns logits [K, vocab] at the prompt indices `wanted` (increasing), running only tokens not yet cached.

        Tokens of an answer appended to the prompt run as generated tokens do, but many per call.
        """
        with self.lock:
            self._prompt_count += 1
            return self._prefill(prompt, wanted, stats, halt or Halt())

    def _prefill(self, prompt: Prompt, wanted: Ints, stats: GenerationStats, halt: Halt) -> Floats:
        keys = prompt.prefix_keys()
        start = min(_shared_prefix(self._cached, keys), int(wanted[0]))
        borders = [] if self._message_ends is None else cuts(prompt, self._message_ends)
        if self._message_ends is not None:
            start = self._restored(borders, start)
        self._settled, self._cached, self._ntk_alpha = keys[:0], keys[:start], prompt.ntk_alpha
        stats.counts.prompt, stats.counts.reused = len(prompt.ids), start
        stats.counts.image = sum(item.span.tokens for item in prompt.placed)
        stats.counts.pruned = sum(item.span.cells for item in prompt.placed) - stats.counts.image
        log.debug("prompt: %d tokens, %d in the cache, %d of images", len(prompt.ids), start, stats.counts.image)
        logits = []
        answer_start = len(keys) - prompt.answer_tokens
        for first, last in _chunks(start, *(cut for cut in borders if cut > start), answer_start, len(keys)):
            logits.append(self._chunk(prompt, first, last, wanted, stats, halt))
            self._cached = keys[:last]
            if last in borders:
                self._engine.snapshot()
                self._cuts.append(last)
        self._settled = keys[: len(keys) - prompt.answer_tokens]
        return np.concatenate(logits)

    def _restored(self, borders: list[int], shared: int) -> int:
        """Returns the last of a prompt's cuts within its `shared` tokens from which the engine can continue, or 0."""
        common = [cut for cut in reusable(self._cuts, borders, shared) if self._engine.resumable(cut) == cut]
        start = max(common, default=0)
        self._cuts = [cut for cut in self._cuts if cut <= start]
        return start

    def _chunk(self, prompt: Prompt, first: int, last: int, wanted: Ints, stats: GenerationStats, halt: Halt) -> Floats:
        features, indices = self._features(prompt, first, last, stats, halt)
        halt.check()
        wanted_here = wanted[(wanted >= first) & (wanted < last)] - first
        started = time.perf_counter()
        logits = self._engine.forward(
            LlmInputs(
                prompt.ids[first:last],
                prompt.positions[:, first:last],
                features,
                indices,
                wanted_here,
                first,
                answer=first >= len(prompt.ids) - prompt.answer_tokens,
                ntk_alpha=prompt.ntk_alpha,
            )
        )
        stats.times.prefill += time.perf_counter() - started
        return logits

    def _features(
        self, prompt: Prompt, first: int, last: int, stats: GenerationStats, halt: Halt
    ) -> tuple[Floats, Ints]:
        """Returns features [1 + D, N, H] and indices [N], relative to `first`, of the image tokens in [first, last)."""
        rows, indices = [self._no_features], [np.empty(0, np.int64)]
        for item in prompt.placed:
            begin, end = max(first, item.span.start), min(last, item.span.end)
            if begin < end:
                halt.check()
                started = time.perf_counter()
                offset = item.first_row - item.span.start
                rows.append(self._encoder(item)[:, begin + offset : end + offset])
                stats.times.vision += time.perf_counter() - started
                indices.append(np.arange(begin, end) - first)
        return np.concatenate(rows, axis=1), np.concatenate(indices)

    def step(self, token: int, position: int) -> Floats:
        """Returns logits [vocab] after `token`, whose three M-RoPE positions all equal `position`."""
        return np.asarray(self.extend([token], position, len(self._cached))[0])

    def extend(self, tokens: Sequence[int], position: int, past: int, more: int = 0) -> Floats:
        """Runs text tokens after the first `past` cached ones, in one call; `position` is that of the first.

        Returns logits [1 + more, vocab] after the token before the last `more`, and after each of these.
        """
        ids, alpha, no_images = np.array(tokens, np.int64), self._ntk_alpha, (self._no_features, np.empty(0, np.int64))
        positions = text_positions(position, len(ids))
        wanted = np.arange(len(ids) - 1 - more, len(ids))
        self._cached = self._cached[:past]
        logits = self._engine.forward(LlmInputs(ids, positions, *no_images, wanted, past, answer=True, ntk_alpha=alpha))
        self._cached = np.concatenate((self._cached, text_keys(ids, alpha)))
        return logits

    def generate(
        self,
        prompt: Prompt,
        limit: int,
        stop: frozenset[int],
        pick: TokenPicker,
        stats: GenerationStats,
        halt: Halt | None = None,
        certain: Callable[[], bool] = never,
        lookup: Lookup | None = None,
    ) -> Generator[int]:
        """Yields tokens until a stop token (not yielded), `limit` tokens, or `halt`.

        If `certain()`, `pick` returns the same token for any logits; it is then given those of an earlier token.
        `lookup` guesses tokens that are run together; what `pick` chooses decides how many of them stay.
        Raises PromptError if another prompt has taken over the KV cache meanwhile, EngineError if the model was closed.
        """
        try:
            yield from self._tokens(prompt, limit, stop, pick, stats, halt or Halt(), certain, lookup or NoLookup())
        except Halted as halted:
            stats.finish_reason = halted.reason
        except (GeneratorExit, KeyboardInterrupt):
            stats.finish_reason = stats.finish_reason or "cancelled"
            raise
        except BaseException:
            stats.finish_reason = "error"
            raise
        finally:
            decoded, reason = stats.times.decode, stats.finish_reason
            log.debug("answer: %d tokens, %s, decoded in %.3f s", len(stats.tokens), reason, decoded)

    def _tokens(
        self,
        prompt: Prompt,
        limit: int,
        stop: frozenset[int],
        pick: TokenPicker,
        stats: GenerationStats,
        halt: Halt,
        certain: Callable[[], bool],
        lookup: Lookup,
    ) -> Iterator[int]:
        started = time.perf_counter()
        with self.lock:
            logits = self.prefill(prompt, np.array([len(prompt.ids) - 1]), stats, halt)[0]
            number = self._prompt_count
        stats.times.first_token = time.perf_counter() - started
        pending = PendingTokens(logits, partial(self._run, number, prompt, stats, halt), lookup, limit)
        for index in range(limit):
            if index:
                halt.check()
                self._check_current(number)
            known = certain()
            token = pick(pending.last() if known else pending.logits())
            stats.counts.proposed = pending.proposed
            if token in stop:
                stats.finish_reason, stats.stop_token = "stop", token
                return
            stats.tokens.append(token)
            pending.add(token)
            stats.counts.generated, stats.counts.accepted = len(stats.tokens), pending.accepted
            stats.counts.certain += known
            yield token
        stats.finish_reason = "length"

    def _run(
        self, number: int, prompt: Prompt, stats: GenerationStats, halt: Halt, tokens: Sequence[int], at: int, more: int
    ) -> Floats:
        """Runs tokens of the answer to `prompt`, the first of which has index `at` in it; see `extend`.

        Raises if the answer was halted or another prompt uses the cache.
        """
        known = self._known(tokens, len(prompt.ids) + at, more)
        tail = max(known, len(tokens) - PREFILL_CHUNK)  # the last call, which has all logits that are wanted
        for first, end in _chunks(known, tail, len(tokens)):
            halt.check()
            with self.lock:
                self._check_current(number)
                started = time.perf_counter()
                start = at + first
                past, count = len(prompt.ids) + start, more if end == len(tokens) else 0
                logits = self.extend(tokens[first:end], prompt.next_position + start, past, count)
            stats.times.decode += time.perf_counter() - started
        return logits

    def _known(self, tokens: Sequence[int], past: int, more: int) -> int:
        """Returns how many of the first of these tokens after `past` are in the cache already, to continue after them.

        They were run with guesses that turned out wrong.
        """
        if len(tokens) == 1 + more:
            return 0
        with self.lock:
            keys = text_keys(np.array(tokens[: len(tokens) - 1 - more], np.int64), self._ntk_alpha)
            return max(0, self._engine.resumable(past + _shared_prefix(self._cached[past:], keys)) - past)

    def _check_current(self, number: int) -> None:
        if self._closed:
            raise EngineError("the model was closed before this answer ended", fix="end or close() its streams first")
        if self._prompt_count != number:
            raise PromptError(
                "another prompt was started on this model, or the model was cleared, before this answer ended",
                fix="finish one answer first, use generate(), or load the bundle twice",
            )


def _chunks(start: int, *borders: int) -> Iterator[tuple[int, int]]:
    """Yields the half-open token range of each engine call from `start` to each of the increasing borders."""
    for end in borders:
        for first in range(start, end, PREFILL_CHUNK):
            yield first, min(first + PREFILL_CHUNK, end)
        start = max(start, end)


def _shared_prefix(cached: Ints, keys: Ints) -> int:
    shared = min(len(cached), len(keys))
    differing = np.flatnonzero(cached[:shared] != keys[:shared])
    return int(differing[0]) if len(differing) else shared
