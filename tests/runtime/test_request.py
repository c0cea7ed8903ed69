"""Bodies of requests: every field is honored or refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qvl_runtime.requests.errors import ApiError
from qvl_runtime.requests.request import LABELS, NEUTRAL, SETTINGS, ChatRequest, read_request

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
OPENAI = {
    "messages",
    "model",
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
}
"""The fields of OpenAI's reference of chat completions."""


def read(**fields: Any) -> ChatRequest:
    return read_request(json.dumps({**PLAIN, **fields}).encode())


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == 400 and "\n" not in str(caught.value)
    return caught.value


def test_every_field_of_the_interface_is_known() -> None:
    known = set(ChatRequest.__struct_fields__) | set(NEUTRAL) | set(LABELS)
    assert known >= OPENAI
    assert set(SETTINGS) <= set(ChatRequest.__struct_fields__)


@pytest.mark.parametrize("name", [*NEUTRAL])
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    error = refusal(**{name: 7 if name != "n" else 2})
    assert (error.param, error.code) == (name, "unsupported_parameter") and name in str(error)
    for value in NEUTRAL[name]:
        assert read(**{name: value}) == read()
    assert read(**{name: None}) == read()


def test_true_is_no_number() -> None:
    assert refusal(n=True).param == "n"
    assert refusal(store=0).param == "store"


def test_unknown_fields_are_refused() -> None:
    error = refusal(temperatur=1)
    assert str(error) == "the field 'temperatur' is not supported" and error.param == "temperatur"
    assert read(user="me", metadata={"a": "b"}) == read()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"else": 1}}, "stream_options"),
    ],
    ids=str,
)
def test_wrong_values_name_their_place(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"model": "m"', b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b'{"model": "\\ud800"}']
    + [b'{"model": NaN}'],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(body)
    assert (caught.value.status, "\n" in str(caught.value)) == (400, False)
    json.dumps(caught.value.body(), ensure_ascii=False).encode()


def test_missing_fields() -> None:
    with pytest.raises(ApiError, match="missing required field `messages`"):
        read_request(b'{"model": "m"}')


def test_settings_are_those_of_the_runtime() -> None:
    request = read(max_completion_tokens=7, temperature=0.5, stop="x", logprobs=True, top_logprobs=2, min_p=0.1)
    settings = request.settings()
    assert settings["max_new_tokens"] == 7 and settings["stop"] == "x" and settings["min_p"] == 0.1
    assert read(max_tokens=7, max_completion_tokens=7).settings()["max_new_tokens"] == 7
    assert read(stream=True, stream_options={"include_usage": True}).include_usage
