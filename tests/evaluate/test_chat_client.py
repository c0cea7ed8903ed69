"""A client for servers that are busy, broken, silent, or none at all."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from qvl_export.errors import StoppedError
from qvl_export.evaluate.answers import chat_client
from qvl_export.evaluate.answers.chat_client import ServerError, resolve_model, stream_chat
from qvl_export.evaluate.answers.endpoint_names import Endpoint
from tests.evaluate.stub_server import SSE, Reply, StubServer, events, failure, serving, text


def asked(*replies: Reply, waits: list[float] | None = None, key_env: str = "") -> tuple[list[Any], StubServer]:
    """The chunks that a server gives, which answers its requests in this order, the last one for all others."""
    stub = StubServer(lambda number, _: replies[min(number, len(replies)) - 1])
    with serving(stub):
        endpoint = Endpoint("stub", stub.url, key_env=key_env)
        return [*stream_chat(endpoint, {"a": 1}, (waits if waits is not None else []).append)], stub


def test_chunks_are_those_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    chunks, stub = asked((200, SSE, b": ping\n\n" + text("a", "b")), key_env="STUB_KEY")
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["a", "b", None]
    assert stub.requests == [{"a": 1}] and stub.keys == ["Bearer secret"]
    assert asked((200, {"Content-Type": "application/json"}, b'{"whole": 1}'))[0] == [{"whole": 1}]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_key_nowhere(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    with serving(StubServer(lambda *_: (200, SSE, text("a")))) as other:
        reply = (status, {"Location": f"{other.url}/chat/completions"}, b"")
        with pytest.raises(ServerError, match=f"status {status}: .*redirect to {other.url}/chat.* not followed"):
            asked(reply, key_env="STUB_KEY")
        with pytest.raises(ServerError, match="a redirect to"), serving(StubServer(lambda *_: reply, reply)) as stub:
            resolve_model(Endpoint("stub", stub.url, key_env="STUB_KEY"))
        assert other.keys == [] and stub.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    "reply",
    [
        failure(401, "sk-secret is not a key"),
        failure(500, "x" * 296 + "sk-secret"),
        failure(302, Location="/sk-secret"),
        ((500, {}, b"{}")),
        ((200, SSE, events({"error": {"message": "sk-secret"}}))),
        ((200, {}, b"sk-secret is not a key")),
        ((200, {}, b"x" * 56 + b"sk-secret")),
        ((200, {**SSE, "Content-Length": "-sk-secret"}, b"")),
    ],
)
def test_errors_do_not_show_the_key(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "sk-secret")
    with pytest.raises(ServerError) as failed:
        asked(reply, key_env="STUB_KEY")
    assert "sk-s" not in str(failed.value)


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    waits: list[float] = []
    chunks, stub = asked(
        failure(429, Retry_After="7"),
        failure(503),
        failure(429, Retry_After="9999"),
        (200, SSE, text("a")),
        waits=waits,
    )
    assert len(chunks) == 2 and len(stub.requests) == 4
    assert waits == [7.0, 2.0, 60.0]


def test_a_server_that_stays_busy_is_an_error() -> None:
    waits: list[float] = []
    with pytest.raises(ServerError, match="status 429: try later"):
        asked(failure(429, "try later", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), waits=waits)
    assert waits == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (failure(500), "status 500: broken"),
        ((500, {}, b"<html>oops</html>"), "status 500: Internal Server Error"),
        (failure(401, "no key"), r"status 401: no key \(give its key with ,key_env=VARIABLE\)"),
        ((200, SSE, b"data: {not json\n\n"), "its answer is not JSON"),
        ((200, SSE, b"data: [1]\n\n"), "its answer is not a JSON object"),
        ((200, {}, b"hello"), "its answer is not JSON"),
        ((200, SSE, events({"error": {"message": "out of memory"}})), "it failed: out of memory"),
        ((200, SSE, b'data: {"choices": []}\n\n'), "its answer broke off"),
        ((200, {**SSE, "Content-Length": "999"}, b'data: {"choices": []}\n\n'), "its answer broke off"),
    ],
)
def test_what_goes_wrong_is_one_line_that_names_the_server(reply: Reply, problem: str) -> None:
    with pytest.raises(ServerError, match=problem) as failed:
        asked(reply)
    assert str(failed.value).startswith("stub (http://127.0.0.1:") and "\n" not in str(failed.value)


def test_an_answer_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "MAX_BYTES", 100)
    with pytest.raises(ServerError, match="does not end"):
        asked((200, SSE, text("x" * 99)))


def resolved(models: Reply, model: str = "") -> str:
    with serving(StubServer(lambda *_: failure(500), models)) as stub:
        return resolve_model(Endpoint("stub", stub.url, model))


def test_the_only_model_needs_no_name() -> None:
    assert resolved((200, {}, b'{"data": [{"id": "m"}]}')) == "m"
    two = (200, {}, b'{"data": [{"id": "m"}, {"id": "n"}]}')
    assert resolved(two, "n") == "n" and resolved(failure(404), "n") == "n"
    with pytest.raises(ServerError, match=r"it has 2 models: m, n \(choose one with ,model=MODEL\)"):
        resolved(two)
    for odd in (failure(404), failure(500), (200, {}, b"[]"), (200, {}, b'{"data": 1}'), (200, {}, b"\xff")):
        with pytest.raises(ServerError):
            resolved(odd)


def test_names_of_models_do_not_show_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "sk-secret")
    two = (200, {}, b'{"data": [{"id": "m"}, {"id": "sk-secret"}]}')
    with serving(StubServer(lambda *_: failure(500), two)) as stub, pytest.raises(ServerError, match="m, … "):
        resolve_model(Endpoint("stub", stub.url, key_env="STUB_KEY"))


def test_a_server_that_is_not_there_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ServerError, match="no server answers: Connection refused"):
            resolve_model(Endpoint("stub", url))
    with pytest.raises(ServerError, match="no server answers"):
        resolve_model(Endpoint("stub", "http://name.invalid/v1"))


def test_a_server_that_is_gone_is_waited_for_and_ends_the_run() -> None:
    waits = list[float]()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint("stub", f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m")
        with pytest.raises(StoppedError, match=r"no server answers: Connection refused \(start it again: the same"):
            next(stream_chat(endpoint, {}, sleep=waits.append))
    assert waits == [1, 2, 4, 8]
