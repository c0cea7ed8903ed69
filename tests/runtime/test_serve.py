"""The server as OpenAI's clients see it: the real `openai` package against a server process, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from PIL import Image

from qvl_runtime import __main__ as cli
from qvl_runtime.model import Model, load
from tests.serving import PAGE, Server, asked, serving

NUMBER = {
    "type": "object",
    "properties": {"of": {"type": "integer"}},
    "required": ["of"],
    "additionalProperties": False,
}
FLAGS = {"type": "array", "minItems": 250, "items": {"type": "boolean"}}
LONG: dict[str, Any] = {
    "max_tokens": 3800,
    "lookup": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "flags", "schema": FLAGS}},
}
"""An answer of hundreds of tokens, each of which is a call of the model."""
TOOLS = [{"type": "function", "function": {"name": "sum", "description": "Adds.", "parameters": NUMBER}}]


@pytest.fixture(scope="module")
def server(deep_path: Path) -> Iterator[Server]:
    with serving(deep_path, "--parallel", "2", "--max-pages", "4") as running:
        yield running


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file; answers of a server that was given it go on when it is removed."""
    file = tmp_path / "hold"
    file.touch()
    return file


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="module")
def local(deep_path: Path) -> Model:
    return load(deep_path, threads=1)


def create(client: openai.OpenAI, text: str = "Read.", image: Image.Image | None = PAGE, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=asked(text, image), **options)  # type: ignore[call-overload]


def expected(local: Model, text: str = "Read.", image: Image.Image | None = PAGE, **options: Any) -> str:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    if image is not None:
        messages[0]["content"].insert(0, {"type": "image", "image": image})
    return "".join(local.stream(messages, **options))


def test_a_whole_answer(client: openai.OpenAI, local: Model) -> None:
    answer = create(client, max_tokens=12)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected(local, max_new_tokens=12), "length")
    assert (answer.model, answer.object, choice.message.role) == ("tiny", "chat.completion", "assistant")
    usage = answer.usage
    prompt = local.prompt(
        [{"role": "user", "content": [{"type": "image", "image": PAGE}, {"type": "text", "text": "Read."}]}]
    )
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt.ids), 12)
    assert usage.total_tokens == usage.prompt_tokens + 12
    again = create(client, max_completion_tokens=12)
    assert again.usage.prompt_tokens_details.cached_tokens == len(prompt.ids) - 1
    assert again.choices[0].message.content == choice.message.content and again.id != answer.id


@pytest.mark.parametrize(
    "options", [{"temperature": 1.3, "seed": 3}, {"stop": ["e", "zz"]}, {"presence_penalty": 2.0}], ids=str
)
def test_a_stream_is_the_whole_answer(client: openai.OpenAI, local: Model, options: dict[str, Any]) -> None:
    chunks = [*create(client, max_tokens=20, stream=True, stream_options={"include_usage": True}, **options)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = create(client, max_tokens=20, **options)
    assert text == whole.choices[0].message.content == expected(local, max_new_tokens=20, **options)
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_logprobs(client: openai.OpenAI, local: Model) -> None:
    options = {"max_tokens": 8, "logprobs": True, "top_logprobs": 3}
    found = create(client, **options).choices[0].logprobs.content
    streamed = [chunk.choices[0] for chunk in create(client, stream=True, **options)]
    pieces = [entry for choice in streamed if choice.logprobs for entry in choice.logprobs.content]
    assert pieces == found and len(found) == 8
    stream = local.stream(
        [{"role": "user", "content": [{"type": "image", "image": PAGE}, {"type": "text", "text": "Read."}]}],
        8, logprobs=True, top_logprobs=3,
    )  # fmt: skip
    list(stream)
    assert [entry.logprob for entry in found] == pytest.approx(
        [entry.logprob for entry in stream.run.logprobs], abs=1e-4
    )
    assert all(
        len(entry.top_logprobs) == 3 and bytes(entry.bytes).decode("utf-8", "replace") == entry.token for entry in found
    )


def test_answers_of_a_schema(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER, "strict": True}}
    for options in ({}, {"stop": ["}"]}, {"temperature": 1.2, "seed": 1, "presence_penalty": 1.0, "logprobs": True}):
        answer = create(client, max_tokens=9, response_format=form, **options)
        jsonschema.validate(json.loads(answer.choices[0].message.content), NUMBER)
    answer = create(client, max_tokens=30, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_forced_calls(client: openai.OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "sum"}}):
        (answer,) = create(client, max_tokens=60, tools=TOOLS, tool_choice=choice).choices
        (call,) = answer.message.tool_calls
        assert (answer.finish_reason, call.function.name, answer.message.content) == ("tool_calls", "sum", None)
        jsonschema.validate(json.loads(call.function.arguments), NUMBER)
        chunks = [
            chunk.choices[0] for chunk in create(client, max_tokens=60, tools=TOOLS, tool_choice=choice, stream=True)
        ]
        (streamed,) = [chunk.delta.tool_calls for chunk in chunks if chunk.delta.tool_calls]
        assert streamed[0].function.arguments == call.function.arguments and chunks[-1].finish_reason == "tool_calls"
        assert "".join(chunk.delta.content or "" for chunk in chunks) == ""


def test_a_conversation_with_results_of_tools(client: openai.OpenAI) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "sum", "arguments": '{"of": 3}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        *asked("Add.", PAGE),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "6"},
        *asked("And this?", PAGE.rotate(90, expand=True)),
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, max_tokens=5)  # type: ignore[call-overload]
    assert answer.usage.completion_tokens == 5
    assert answer.model_extra["qvl"]["image_tokens"] == 60


def test_pages_of_a_pdf(client: openai.OpenAI, pdf: Path) -> None:
    data = f"data:application/pdf;base64,{base64.b64encode(pdf.read_bytes()).decode()}"
    part = {"type": "file", "file": {"file_data": data, "filename": "letter.pdf"}}
    messages: Any = [{"role": "user", "content": [part, {"type": "text", "text": "Read."}]}]
    assert (
        client.chat.completions.create(model="tiny", messages=messages, max_tokens=3).choices[0].message.content
        is not None
    )
    messages[0]["content"] += [part]
    with pytest.raises(openai.BadRequestError, match="this server takes 4"):
        client.chat.completions.create(model="tiny", messages=messages, max_tokens=3)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    for ask in (
        lambda: client.models.retrieve("other"),
        lambda: client.chat.completions.create(model="other", messages=[]),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 2}, "n is not supported"),
        ({"max_tokens": 0}, "max_new_tokens must be"),
        ({"max_tokens": 10**6}, "do not fit the maximum length"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"temperature": -1}, "temperature must be"),
        ({"messages": []}, "there are no messages"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "the role of a message must be"),
        ({"messages": [{"role": "user", "content": "<|image_pad|>"}]}, "placeholders"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]},
            "type 'image' is not",
        ),
        ({"messages": [{"role": "user", "content": "x", "audio": {"id": 1}}]}, "unknown key 'audio'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "json_schema cannot be used",
        ),
        ({"chat_template_kwargs": {"no_such": 1}}, "no_such"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_have_a_status_whether_streamed_or_not(
    server: Server, fields: dict[str, Any], message: str, stream: bool
) -> None:
    answer = server.post(stream=stream, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error") and message in error["message"]
    assert "\n" not in error["message"] and "Traceback" not in answer.text


def test_bodies_are_bounded_and_typed(deep_path: Path) -> None:
    with serving(deep_path, "--max-body", "1") as server:
        url = f"{server.url}/v1/chat/completions"
        big = b'{"model": "' + b"x" * (2 << 20) + b'"}'
        for content in (big, iter([big[: 1 << 20], big[1 << 20 :]])):  # with its length, and in chunks
            answer = httpx.post(url, content=content, headers={"Content-Type": "application/json"}, timeout=300)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = httpx.post(url, content=b"{}", headers={"Content-Type": kind}, timeout=300)
            assert (answer.status_code, answer.json()["error"]["code"]) == (415, "wrong_content_type")
        assert (
            httpx.post(url, content=b"{", headers={"Content-Type": "application/json"}, timeout=300).status_code == 400
        )
        assert (
            httpx.get(url, timeout=300).status_code == 405
            and httpx.get(f"{server.url}/else", timeout=300).status_code == 404
        )
        assert httpx.get(f"{server.url}/health", headers={"Host": "evil.example"}, timeout=300).status_code == 421
        asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = httpx.options(url, headers=asking, timeout=300)
        assert "access-control-allow-origin" not in answer.headers


def test_curl_reads_a_stream(server: Server) -> None:
    body = json.dumps({"model": "tiny", "messages": asked("Hi", None), "max_tokens": 4, "stream": True})
    command = ["curl", "-sN", "-H", "Content-Type: application/json", "-d", body, f"{server.url}/v1/chat/completions"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split("\n\n")
    assert all(line.startswith("data: ") for line in lines[:-1]) and lines[-2:] == ["data: [DONE]", ""]


def test_answers_at_the_same_time_are_those_of_one_after_the_other(client: openai.OpenAI, local: Model) -> None:
    texts = [f"What is line {index}?" for index in range(6)]

    def ask(text: str) -> str:
        return str(create(client, text, max_tokens=25, temperature=1.2, seed=5).choices[0].message.content)

    with ThreadPoolExecutor(6) as pool:
        found = [*pool.map(ask, texts)]
    assert found == [expected(local, text, max_new_tokens=25, temperature=1.2, seed=5) for text in texts]


def test_a_client_that_leaves_frees_its_slot(deep_path: Path, hold: Path) -> None:
    with serving(deep_path, hold=hold) as server:
        body = {"model": "tiny", "messages": asked("Leave."), **LONG}
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=300) as answer:
            next(answer.iter_lines())
        server.wait_for_metric('qvl_requests_total{status="499"} 1.0')
        server.wait_for_metric("qvl_requests_running 0.0")
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
            content = json.dumps(body).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
            server.wait_for_metric("qvl_requests_running 1.0")
        server.wait_for_metric('qvl_requests_total{status="499"} 2.0')
        server.wait_for_metric("qvl_requests_running 0.0")
        assert server.post(max_tokens=2).status_code == 200
        generated = [entry["tokens"]["generated"] for entry in server.logged() if entry.get("status") == 499]
        assert len(generated) == 2 and max(generated) < 250, "the answer ends, not only its connection"


def test_the_log_has_nothing_of_a_request(server: Server) -> None:
    server.post(messages=asked("My secret word is platypus", None), max_tokens=2)
    server.post(messages=[{"role": "user", "content": [{"type": "platypus"}]}])
    server.post(
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object", "platypus": 1}}},
        max_tokens=3,
    )
    server._wait(lambda: len(server.logged()) >= 2)
    assert not [line for line in server.lines if "platypus" in line or "base64" in line]


def test_the_log_has_texts_on_request(deep_path: Path) -> None:
    with serving(deep_path, "--log-content") as server:
        server.post(messages=asked("platypus"), max_tokens=2)
        server._wait(lambda: server.logged())
        assert server.logged()[0]["messages"] == [{"role": "user", "content": ["<image_url>", "platypus"]}]


def test_what_the_queue_cannot_hold_is_told_when_to_come_again(deep_path: Path, hold: Path) -> None:
    with serving(deep_path, "--queue", "1", hold=hold) as server:
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(server.post, **LONG)
            server.wait_for_metric("qvl_requests_running 1.0")
            waiting = pool.submit(server.post, max_tokens=2)
            server.wait_for_metric("qvl_requests_waiting 1.0")
            refused = server.post(max_tokens=2)
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert httpx.get(f"{server.url}/health", timeout=300).json() == {"status": "ok"}
            hold.unlink()
            assert running.result().status_code == 200
            assert waiting.result().status_code == 200
        assert 'qvl_requests_total{status="429"} 1.0' in server.metrics()


def test_a_request_has_a_deadline(deep_path: Path, hold: Path) -> None:
    with serving(deep_path, "--timeout", "2", hold=hold) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, **LONG)
        late = server.post(**LONG)  # one of them waits for the other's slot
        answers = [running.result(), late]
    assert {answer.status_code for answer in answers} <= {200, 503}
    for answer in (answer.json() for answer in answers):
        if "error" in answer:  # its time was over in the queue, or before its first token on a slow machine
            assert answer["error"]["code"] == "timeout"
            continue
        choice = answer["choices"][0]
        assert (choice["finish_reason"], answer["qvl"]["finish_reason"]) == ("length", "timeout")
        assert len(json.loads(choice["message"]["content"])) >= 250 and answer["qvl"]["forced"]


def test_the_end_finishes_what_runs_and_refuses_what_waits(deep_path: Path, hold: Path) -> None:
    with serving(deep_path, hold=hold) as server, ThreadPoolExecutor(2) as pool:
        running = pool.submit(server.post, **LONG)
        server.wait_for_metric("qvl_requests_running 1.0")
        waiting = pool.submit(server.post, max_tokens=2)
        server.wait_for_metric("qvl_requests_waiting 1.0")
        server.process.send_signal(signal.SIGTERM)
        assert waiting.result().status_code == 503
        assert waiting.result().json()["error"]["code"] == "shutting_down"
        hold.unlink()
        whole = running.result().json()
        assert len(json.loads(whole["choices"][0]["message"]["content"])) >= 250
        assert whole["usage"]["completion_tokens"] > 250
        assert server.process.wait(300) == 0
        assert server.process.stdout is not None and server.process.stdout.read() == ""
        assert not [line for line in server.lines if "Traceback" in line]


def test_a_second_signal_ends_at_once(deep_path: Path, hold: Path) -> None:
    with serving(deep_path, hold=hold) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, **LONG)
        server.wait_for_metric("qvl_requests_running 1.0")
        server.process.send_signal(signal.SIGINT)
        server._wait(lambda: any(line.startswith("ending: 1 running") for line in server.lines))
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(300) == 0
        with contextlib.suppress(httpx.HTTPError):
            running.result()


def test_a_killed_server_starts_again_at_its_port(deep_path: Path) -> None:
    with serving(deep_path) as server:
        body = {"model": "tiny", "messages": asked("Hi", None), "stream": True, **LONG}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=300) as answer:
            next(answer.iter_lines())
            os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        with serving(deep_path, port=server.port) as again:
            assert again.port == server.port and again.post(max_tokens=2).status_code == 200


def test_the_api_key_and_cors(deep_path: Path) -> None:
    origin = "https://pages.example"
    with serving(deep_path, "--api-key", "sesame", "--cors-origin", origin) as server:
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="wrong").models.list()
        assert [model.id for model in server.client(api_key="sesame").models.list()] == ["tiny"]
        asking = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = httpx.options(f"{server.url}/v1/chat/completions", headers=asking, timeout=300)
        assert answer.headers["access-control-allow-origin"] == origin
        asking["Origin"] = "https://evil.example"
        assert (
            "access-control-allow-origin"
            not in httpx.options(f"{server.url}/v1/models", headers=asking, timeout=300).headers
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "99999"),
        (["--port", "x"], "'x' is not a whole number"),
        (["--parallel", "0"], "'0' is not a positive"),
        (["--timeout", "0"], "0"),
        (["--media-root", "/no/such"], "/no/such: is not a directory"),
        (["--api-key", ""], "the API key is empty"),
        (["--host", "256.0.0.1", "--port", "0"], "256.0.0.1:0"),
    ],
    ids=str,
)
def test_bad_options(deep_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(deep_path), *options]) == 2
    out = capsys.readouterr()
    assert (out.out, out.err.count("\n")) == ("", 1) and message in out.err


def test_a_port_that_is_taken(deep_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(deep_path), "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"error: 127.0.0.1:{port}: Address already in use\n"


def test_a_server_for_others_says_so(deep_path: Path) -> None:
    with serving(deep_path, "--host", "0.0.0.0") as server:
        assert "warning: everybody who reaches 0.0.0.0 can use this server, see --api-key" in server.lines
        port = server.port
        assert httpx.get(f"http://127.0.0.1:{port}/health", headers={"Host": "box.example"}, timeout=300).json() == {
            "status": "ok"
        }
        assert server.end() == 0


def test_without_the_extra(
    deep_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("qvl_runtime.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve", str(deep_path)]) == 2
    assert "error: serve needs " in (err := capsys.readouterr().err) and "qvl-runtime[serve]" in err
