"""Answers of servers as records."""

from __future__ import annotations

import base64
import contextlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models

from qvl_export.errors import StoppedError
from qvl_export.evaluate.answers.chat_client import ServerError
from qvl_export.evaluate.answers.endpoint_answerer import EndpointAnswerer
from qvl_export.evaluate.answers.endpoint_names import Endpoint
from qvl_export.evaluate.answers.prefix_agreement import ServedToken
from qvl_export.evaluate.answers.records import Record
from qvl_export.evaluate.answers.token_agreement import compress_distributions
from tests.evaluate.stub_server import SSE, Reply, StubServer, events, failure, serving, text


@pytest.fixture
def messages(tmp_path: Path) -> list[dict[str, Any]]:
    Image.new("RGB", (56, 28), "red").save(tmp_path / "p.png")
    parts = [{"type": "image", "image": str(tmp_path / "p.png")}, {"type": "text", "text": "Read."}]
    return [{"role": "user", "content": parts}]


def answered(
    messages: list[dict[str, Any]], *replies: Reply, **arguments: Any
) -> tuple[Record, StubServer, EndpointAnswerer]:
    stub = StubServer(lambda number, _: replies[min(number, len(replies)) - 1])
    with serving(stub):
        answerer = EndpointAnswerer(Endpoint("stub", stub.url, "m"), arguments, Path("nowhere"))
        return answerer.answer(messages, 9), stub, answerer


def test_a_page_is_sent_and_its_answer_kept(messages: list[dict[str, Any]]) -> None:
    record, stub, _ = answered(messages, (200, SSE, text("Hel", "lo", usage={"completion_tokens": 3})), thinking=False)
    assert (record.answer, record.finish_reason, record.generated, record.size) == ("Hello", "stop", 3, (56, 28))
    assert record.tokens == [] and record.resized == (1, 1) and record.decode_seconds >= 0
    sent = stub.requests[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["stream"]) == ("m", 9, 0, True)
    assert sent["chat_template_kwargs"] == {"thinking": False}
    head, _, data = sent["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (56, 28)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_the_first_request_refuses_all(messages: list[dict[str, Any]], status: int) -> None:
    with pytest.raises(StoppedError, match=f"status {status}: broken") as stopped:
        answered(messages, failure(status))
    assert "(give its key" in str(stopped.value) or "(check the address and ,model=MODEL)" in str(stopped.value)


def test_a_later_refusal_is_of_one_item(messages: list[dict[str, Any]]) -> None:
    replies = [(200, SSE, text("a")), failure(404)]
    with serving(StubServer(lambda number, _: replies[number - 1])) as stub:
        answerer = EndpointAnswerer(Endpoint("stub", stub.url, "m"), {}, Path("nowhere"))
        assert answerer.answer(messages, 9).answer == "a"
        with pytest.raises(ServerError, match="status 404"):
            answerer.answer(messages, 9)


def test_formats_that_servers_do_not_read_are_sent_as_png(messages: list[dict[str, Any]], tmp_path: Path) -> None:
    Image.new("RGB", (56, 28), "red").save(tmp_path / "p.bmp")
    messages[0]["content"][0]["image"] = str(tmp_path / "p.bmp")
    _, stub, _ = answered(messages, (200, SSE, text("a")))
    assert stub.requests[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_log_probabilities_are_read_where_they_are(messages: list[dict[str, Any]]) -> None:
    entry = {"token": "é", "bytes": [195, 169], "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -2}, {}, 1]}
    chunk = {"choices": [{"delta": {"content": "é"}, "logprobs": {"content": [entry, None, {"token": "y"}]}}]}
    record, _, answerer = answered(messages, (200, SSE, events(chunk)))
    assert answerer.served == [ServedToken("é".encode(), -0.5, {b"x": -2.0, "é".encode(): -0.5})]
    assert record.generated == 1, "without usage, the tokens that were named are counted"


@pytest.mark.parametrize("value", ["-Infinity", "NaN", "1e999", "-1e999", "-9999.0", "-3.4e38", "0.5", "1" + "0" * 400])
def test_log_probabilities_that_are_none_are_left_out(value: str, messages: list[dict[str, Any]]) -> None:
    """What comes after such a token is not compared, since it could be compared with another token."""
    given, odd = {"token": "a", "logprob": -0.5}, {"token": "b", "logprob": "VALUE"}
    parts = [[given | {"top_logprobs": [odd]}, given | {"top_logprobs": 7}], [odd, given], [given]]
    body = events(*({"choices": [{"logprobs": {"content": part}}]} for part in parts))
    *_, answerer = answered(messages, (200, SSE, body.replace(b'"VALUE"', value.encode())))
    assert answerer.served == [ServedToken(b"a", -0.5, {b"a": -0.5})] * 2


def test_tokens_are_compared_by_the_bytes_of_the_reference(messages: list[dict[str, Any]], tmp_path: Path) -> None:
    """Without its tokenizer.json they are not known, and nothing is compared."""
    stored = compress_distributions(np.log(np.float32([[0.7, 0.3]])), [0])
    entry = {"token": "a", "logprob": -0.5}
    *_, answerer = answered(messages, (200, SSE, events({"choices": [{"logprobs": {"content": [entry]}}]})))
    assert answerer.served and answerer.agreement(stored) is None
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    reader = EndpointAnswerer(Endpoint("stub", "http://h/v1", "m"), {}, tmp_path)
    assert reader.agreement(stored) is None, "no answer"
    reader.served = answerer.served
    found = reader.agreement(stored)
    assert found is not None and (found.tokens, found.same) == (1, 1)


def test_a_server_without_log_probabilities_is_asked_without(messages: list[dict[str, Any]]) -> None:
    record, stub, answerer = answered(messages, failure(400, "logprobs?"), (200, SSE, text("a")))
    assert record.answer == "a" and answerer.served == []
    assert ["logprobs" in body for body in stub.requests] == [True, False]
    with pytest.raises(ServerError, match="status 400"):
        answered(messages, failure(400, "no images"))


def test_fields_that_a_server_does_not_know_are_refused_once(messages: list[dict[str, Any]]) -> None:
    stub = StubServer(lambda _, body: failure(400) if "logprobs" in body else (200, SSE, text("a")))
    with serving(stub):
        answerer = EndpointAnswerer(Endpoint("stub", stub.url, "m"), {}, Path("nowhere"))
        assert [answerer.answer(messages, 9).answer for _ in range(3)] == ["a"] * 3
    assert ["logprobs" in body for body in stub.requests] == [True, False, False, False]
    assert all("stream_options" in body for body in stub.requests)


@pytest.mark.parametrize("refused", [(1, 2, 3), (4,), (4, 5), (4, 5, 6)])
def test_a_request_that_is_refused_changes_nothing_for_others(
    messages: list[dict[str, Any]], refused: tuple[int, ...]
) -> None:
    """Refused with and without the fields, or by a server that has answered with them."""
    stub = StubServer(lambda number, _: failure(400) if number in refused else (200, SSE, text("a")))
    with serving(stub):
        answerer = EndpointAnswerer(Endpoint("stub", stub.url, "m"), {}, Path("nowhere"))
        for _ in range(5):
            with contextlib.suppress(ServerError):
                answerer.answer(messages, 9)
    assert all(name in stub.requests[-1] for name in ("logprobs", "stream_options"))


WHOLE = b'{"choices": [{"message": {"content": "abc"}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}'


@pytest.mark.parametrize(
    "reply",
    [(200, {"Content-Type": "application/json"}, WHOLE), (200, SSE, text("abc", usage={"completion_tokens": 3}))],
)
def test_an_answer_in_one_piece_has_one_time(messages: list[dict[str, Any]], reply: Reply) -> None:
    def slow(*_: Any) -> Reply:
        time.sleep(0.05)
        return reply

    with serving(StubServer(slow)) as stub:
        record = EndpointAnswerer(Endpoint("stub", stub.url, "m"), {}, Path("nowhere")).answer(messages, 9)
    assert (record.answer, record.generated) == ("abc", 3)
    assert record.first_token_seconds >= 0.05 and record.decode_seconds == 0


def test_a_slow_server_is_measured_by_the_client(messages: list[dict[str, Any]]) -> None:
    def slow(*_: Any) -> Reply:
        time.sleep(0.3)
        return 200, SSE, text("a")

    with serving(StubServer(slow)) as stub:
        answerer = EndpointAnswerer(Endpoint("stub", stub.url, "m"), {}, Path("nowhere"))
        assert answerer.answer(messages, 9).first_token_seconds >= 0.3


def test_odd_chunks_are_passed_over(messages: list[dict[str, Any]]) -> None:
    odd: list[Any] = [{}, {"choices": []}, {"choices": [1]}, {"choices": [{"delta": None}]}, {"usage": 3, "choices": 1}]
    record, *_ = answered(messages, (200, SSE, events(*odd, {"choices": [{"delta": {"content": 7}}]})))
    assert record.answer == "" and record.finish_reason == ""
