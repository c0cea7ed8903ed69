"""A stream of an answer: its pieces never split a character, and it can be closed from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.stream import Stream
from qvl_runtime.model import Model
from tests.conftest import REFERENCE
from tests.runtime.test_endings import DRAWN, OTHER, QUESTION


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(REFERENCE / "tokenizer.json"))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return list(Stream(iter(ids), tokenizer, GenerationStats()))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20), st.integers(0, 60))
def test_pieces_never_split_a_character(tokenizer: Tokenizer, text: str, cut: int) -> None:
    """Byte-level tokens hold parts of characters; an answer cut inside one ends before it."""
    text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole, part = streamed(tokenizer, ids), streamed(tokenizer, ids[:cut])
    assert "".join(whole) == text
    assert not any("\ufffd" in piece for piece in whole + part)
    assert text.startswith("".join(part))


def test_chinese_and_emoji_come_character_by_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("发票😀ok", add_special_tokens=False).ids
    assert len(ids) > 10
    assert streamed(tokenizer, ids)[:3] == ["发", "票", "😀"]
    assert streamed(tokenizer, ids[:4]) == ["发"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 400), max_size=30))
def test_any_tokens_stream_as_they_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Random models say broken UTF-8 and ids beyond the vocabulary; only a broken end is held back."""
    text, joined = tokenizer.decode(ids, skip_special_tokens=True), "".join(streamed(tokenizer, ids))
    assert text.startswith(joined)
    assert set(text[len(joined) :]) <= {"\ufffd"}


def test_streams_can_be_closed(deep_model: Model) -> None:
    expected = deep_model.generate(OTHER, 12)
    with deep_model.stream(QUESTION, 40, **DRAWN) as stream:
        first = next(stream)
        assert (bool(first), stream.run.finish_reason) == (True, None)
    assert stream.run.finish_reason == "cancelled"
    assert list(stream) == []
    stream.close()
    assert deep_model.generate(OTHER, 12) == expected
    never = deep_model.stream(QUESTION, 40)
    never.close()
    assert (list(never), never.run.finish_reason, never.run.tokens) == ([], "cancelled", [])
    done = deep_model.stream(QUESTION, 3)
    list(done)
    done.close()
    assert done.run.finish_reason == "length"


def test_an_abandoned_stream_is_cancelled(deep_model: Model) -> None:
    stream = deep_model.stream(QUESTION, 40, **DRAWN)
    next(stream)
    run = stream.run
    assert run.finish_reason is None
    del stream
    assert run.finish_reason == "cancelled"


def test_a_schema_is_not_closed_where_the_stream_is(deep_model: Model) -> None:
    stream = deep_model.stream(QUESTION, 200, json_schema={"type": "array", "minItems": 50})
    text = next(stream)
    stream.close()
    assert (text + "".join(stream)).startswith("[") and not stream.run.forced
    assert stream.run.finish_reason == "cancelled"


def test_a_stream_that_is_being_closed_is_at_its_end(deep_model: Model) -> None:
    """Also for a reader in another thread."""
    closing, go_on = threading.Event(), threading.Event()

    def tokens() -> Iterator[int]:
        try:
            yield from deep_model.token_ids("Paid in full.")
        finally:
            closing.set()
            go_on.wait(20)

    stream = Stream(tokens(), deep_model.tokenizer, GenerationStats())
    assert next(stream)
    closer = threading.Thread(target=stream.close)
    closer.start()
    assert closing.wait(20)
    threading.Timer(0.2, go_on.set).start()
    assert list(stream) == []
    closer.join()
    assert stream.run.finish_reason == "cancelled"


def test_a_stream_is_closed_from_another_thread(deep_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread waits for a token."""
    forward, in_call, closed = deep_model.engine.forward, threading.Event(), threading.Event()

    def waiting(inputs: Any) -> Any:
        if stream.run.tokens:
            in_call.set()
            closed.wait(20)
        return forward(inputs)

    monkeypatch.setattr(deep_model.engine, "forward", waiting)
    stream, got = deep_model.stream(QUESTION, 400, **DRAWN), []
    reader = threading.Thread(target=lambda: got.extend(stream))
    reader.start()
    assert in_call.wait(20)
    stream.close()
    assert stream.run.finish_reason is None, "it still waits"
    closed.set()
    reader.join(20)
    assert not reader.is_alive()
    assert (stream.run.finish_reason, len(stream.run.tokens)) == ("cancelled", 2)
