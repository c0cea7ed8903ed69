"""Options of an answer: the caller's values, else the checkpoint's if requested, else greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..common.checks import check_float, check_int, quoted
from ..errors import PromptError
from ..manifest import GenerationDefaults, Manifest
from .logprobs import alternatives
from .penalties import Penalties
from .presence import PresencePenalty
from .sampling import Sampling

MAX_NEW_TOKENS = 512
GREEDY = GenerationDefaults(top_k=0)
"""Defaults without the checkpoint's generation config; if a temperature is given, all tokens may be sampled."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The options of `Model.generate` and `Model.stream`; None if the caller gave none."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    presence_penalty: float = 0.0
    use_generation_config: bool = False
    stop: str | Sequence[str] = ()
    stop_loops: bool = False
    timeout: float | None = None
    lookup: bool | None = None
    logprobs: bool = False
    top_logprobs: int | None = None

    def resolve(self, manifest: Manifest) -> ResolvedOptions:
        """Returns the options with defaults filled in; raises PromptError for values out of range."""
        checkpoint = self._checkpoint(manifest)
        return ResolvedOptions(
            max_new_tokens=self._limit(checkpoint, manifest.llm.max_length),
            limit_by_default=self.max_new_tokens is None,
            sampling=Sampling(
                temperature=_first(self.temperature, checkpoint.temperature if checkpoint.do_sample else 0.0),
                top_p=_first(self.top_p, checkpoint.top_p),
                top_k=_first(self.top_k, checkpoint.top_k),
                seed=self.seed,
                min_p=_first(self.min_p, checkpoint.min_p),
            ),
            penalties=Penalties(
                _first(self.repetition_penalty, checkpoint.repetition_penalty),
                _first(self.no_repeat_ngram_size, checkpoint.no_repeat_ngram_size),
            ),
            presence=PresencePenalty(self.presence_penalty),
            stop=_stop_strings(self.stop),
            stop_loops=bool(_flag("stop_loops", self.stop_loops)),
            timeout=None if self.timeout is None else check_float("timeout", self.timeout, above=True, fix="seconds"),
            lookup=_flag("lookup", self.lookup),
            alternatives=alternatives(self.logprobs, self.top_logprobs),
        )

    def _limit(self, checkpoint: GenerationDefaults, max_length: int) -> int:
        """Returns the token limit; the default leaves room for a prompt."""
        if self.max_new_tokens is not None:
            return check_int("max_new_tokens", self.max_new_tokens, 1)
        if checkpoint.max_new_tokens is not None:
            return max(1, min(checkpoint.max_new_tokens, max_length // 2))
        return max(1, min(MAX_NEW_TOKENS, max_length // 4))

    def _checkpoint(self, manifest: Manifest) -> GenerationDefaults:
        if not self.use_generation_config:
            return GREEDY
        if manifest.generation is None:
            raise PromptError(
                "the bundle does not hold the checkpoint's generation settings",
                fix="export it again, or leave use_generation_config out",
            )
        return manifest.generation


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions:
    """The effective options of one answer; `limit_by_default` if the caller gave no `max_new_tokens`.

    `alternatives` is the number of likeliest tokens recorded with the log probability of each token, None if none is.
    """

    max_new_tokens: int
    limit_by_default: bool
    sampling: Sampling
    penalties: Penalties
    presence: PresencePenalty
    stop: tuple[str, ...]
    stop_loops: bool
    timeout: float | None
    lookup: bool | None
    alternatives: int | None


def _flag(name: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise PromptError(f"{name} must be True, False or None, got {quoted(value)}")


def _first(given: T | None, default: T) -> T:
    return default if given is None else given


def _stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, Sequence) or not all(isinstance(text, str) and text for text in strings):
        raise PromptError(f"stop must be a text or a list of texts, none empty, got {quoted(stop)}")
    return tuple(strings)
