"""Answers in the form of OpenAI's chat interface: one object, or the chunks of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from time import time
from typing import Any
from uuid import uuid4

from tokenizers import Tokenizer

from ..answers.generate import GenerationStats
from ..answers.logprobs import TokenLogprob
from ..answers.stop_strings import StopStrings
from ..requests.toolbox import Toolbox
from ..templates.byte_level import token_bytes
from ..tools import OPEN
from .answering import Answer

Json = dict[str, Any]


@dataclass(frozen=True)
class ChatForm:
    """Writes one answer of the model that is served as `model`."""

    model: str
    fingerprint: str
    tokenizer: Tokenizer
    toolbox: Toolbox
    with_logprobs: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time()))

    async def whole(self, answer: Answer) -> Json:
        """Returns the `chat.completion` of an answer; raises ApiError if it failed."""
        text = "".join([piece.text async for piece in answer.pieces()])
        content, calls = self.toolbox.read(text)
        message: Json = {"role": "assistant", "content": content if content or not calls else None, "refusal": None}
        choice = {
            "index": 0,
            "message": message | ({"tool_calls": calls} if calls else {}),
            "logprobs": self._logprobs(answer.run.logprobs),
            "finish_reason": _finish_reason(answer.run, calls),
        }
        return self._object("chat.completion", [choice]) | {"usage": usage(answer.run), "qvl": _details(answer)}

    async def chunks(self, answer: Answer, include_usage: bool) -> AsyncIterator[Json]:
        """Yields the `chat.completion.chunk`s of an answer; raises ApiError if it fails in the middle."""
        yield self._chunk({"role": "assistant", "content": ""})
        shown, texts = StopStrings((OPEN,) if self.toolbox.tools else ()), list[str]()
        async for piece in answer.pieces():
            texts.append(piece.text)
            seen = "" if self.toolbox.forced or shown.found else shown.feed(piece.text)
            if seen or piece.logprobs:
                yield self._chunk({"content": seen} if seen else {}, piece.logprobs)
        text = "".join(texts)
        _, calls = self.toolbox.read(text)
        if shown.found and not calls:  # malformed calls are text
            yield self._chunk({"content": text[text.index(OPEN) :]})
        elif not self.toolbox.forced and (rest := shown.rest()):
            yield self._chunk({"content": rest})
        if calls:
            yield self._chunk({"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]})
        yield self._chunk({}, finish_reason=_finish_reason(answer.run, calls)) | {"qvl": _details(answer)}
        if include_usage:
            yield self._object("chat.completion.chunk", []) | {"usage": usage(answer.run)}

    def _chunk(self, delta: Json, found: Sequence[TokenLogprob] = (), finish_reason: str | None = None) -> Json:
        logprobs = self._logprobs(found) if found else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def _logprobs(self, found: Sequence[TokenLogprob]) -> Json | None:
        if not self.with_logprobs:
            return None
        content = [
            self._token(entry.token, entry.logprob) | {"top_logprobs": [self._token(*pair) for pair in entry.top]}
            for entry in found
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> Json:
        content = token_bytes(self.tokenizer, token)
        return {"token": content.decode("utf-8", "replace"), "bytes": list(content), "logprob": logprob}


def _finish_reason(run: GenerationStats, calls: Sequence[Json]) -> str:
    """Returns OpenAI's word for the end of an answer: "length" for all that were cut off, for whichever reason."""
    if run.finish_reason != "stop":
        return "length"
    return "tool_calls" if calls else "stop"


def usage(run: GenerationStats) -> Json:
    """Returns the numbers of tokens; cached ones are those whose keys and values were there already."""
    counts = run.counts
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.generated,
        "total_tokens": counts.prompt + counts.generated,
        "prompt_tokens_details": {"cached_tokens": counts.reused},
    }


def _details(answer: Answer) -> Json:
    """Returns what OpenAI's interface has no field for; times are in seconds."""
    run = answer.run
    return {
        "finish_reason": run.finish_reason,
        "stop_string": run.stop_string,
        "forced": run.forced or None,
        "image_tokens": run.counts.image,
        "pruned_tokens": run.counts.pruned,
        "seconds": {name: round(value, 4) for name, value in asdict(run.times).items()},
        "regions": None if answer.regions is None else [asdict(region) for region in answer.regions],
        "notes": answer.notes,
    }
