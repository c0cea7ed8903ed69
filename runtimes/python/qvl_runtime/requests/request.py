"""The body of a chat request: decoded strictly, with every field that cannot be honored refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..answers.options import AnswerOptions
from ..manifest import Manifest
from .errors import ApiError, unsupported

MOST_STOPS, LONGEST_STOP = 16, 256
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's interface that this server has not, and the values that change nothing."""
SETTINGS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "no_repeat_ngram_size"),
    *("presence_penalty", "use_generation_config", "stop", "stop_loops", "lookup", "logprobs", "top_logprobs"),
)
"""Fields that are options of `Model.stream` by the same names."""
LABELS = ("metadata", "prompt_cache_key", "safety_identifier", "user")
"""Fields that say who asks; they do not concern the answer."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """How an answer is streamed."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of a request; those from `top_k` on are not OpenAI's, and named as vLLM's or the runtime's."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] = []
    presence_penalty: float = 0.0
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] = "auto"
    response_format: dict[str, Any] = {}
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    use_generation_config: bool = False
    stop_loops: bool = False
    lookup: bool | None = None
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def settings(self) -> dict[str, Any]:
        """Returns the options of `Model.stream`, except for the time, tools and schema."""
        return {"max_new_tokens": self._limit(), **{name: getattr(self, name) for name in SETTINGS}}

    def _limit(self) -> int | None:
        given = {limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None}
        if len(given) > 1:
            raise ApiError(400, "max_tokens and max_completion_tokens differ", param="max_tokens")
        return given.pop() if given else None


_FIELDS = {field.name for field in msgspec.structs.fields(ChatRequest)}


def read_request(body: bytes) -> ChatRequest:
    """Returns the request in a body; raises ApiError 400 that names the field which is at fault."""
    try:
        values = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not a JSON object: {str(error)[:200]}", code="invalid_json") from error
    given = {name: value for name, value in values.items() if value is not None and name not in LABELS}
    for name in [*given]:
        if name in NEUTRAL:
            _refuse_unless_neutral(name, given.pop(name))
        elif name not in _FIELDS:
            raise unsupported(f"the field {name[:60]!r}", name[:60])
    try:
        request = msgspec.convert(given, ChatRequest)
    except msgspec.ValidationError as error:
        text = str(error)
        raise ApiError(400, text, param=text.partition("`$.")[2].rstrip("`") or None) from error
    _check(request)
    return request


def _refuse_unless_neutral(name: str, value: Any) -> None:
    if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in NEUTRAL[name]):
        values = " or ".join(repr(each) for each in NEUTRAL[name])
        raise unsupported(name, name, f"only {values} is" if values else "")


def _check(request: ChatRequest) -> None:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    if len(stops) > MOST_STOPS or any(len(text) > LONGEST_STOP for text in stops):
        raise ApiError(400, f"at most {MOST_STOPS} stop strings of {LONGEST_STOP} characters", param="stop")
    request.settings()
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream", param="stream_options")


def checked_limit(request: ChatRequest, manifest: Manifest) -> int:
    """Returns the longest answer in tokens; raises PromptError for options out of range."""
    return AnswerOptions(**request.settings()).resolve(manifest).max_new_tokens
