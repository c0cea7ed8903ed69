"""Stop strings: where an answer ends, and what of it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime import TruncatedAnswerWarning
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.stop_strings import StopStrings
from qvl_runtime.answers.stream import Stream
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model
from tests.runtime.test_endings import DRAWN, QUESTION


def scripted(model: Model, text: str, stop: Any = ()) -> Stream:
    """A stream whose tokens are those of a text."""
    run = GenerationStats()

    def tokens() -> Iterator[int]:
        for token in model.token_ids(text):
            run.tokens.append(token)
            yield token
        run.finish_reason = "length"

    return Stream(tokens(), model.tokenizer, run, stop=stop)


pieces = st.lists(st.text("ab", max_size=3), max_size=12)


@given(pieces, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_wherever_tokens_part(parts: list[str], strings: list[str]) -> None:
    """Against a search after every character: the first to be complete ends the answer, and none of it is shown."""
    text = "".join(parts)
    ends = [(end, -len(s), s) for end in range(1, len(text) + 1) for s in strings if text[:end].endswith(s)]
    expected, found = (text[: min(ends)[0] + min(ends)[1]], min(ends)[2]) if ends else (text, None)
    watch, shown = StopStrings(strings), []
    for part in parts:
        shown.append(watch.feed(part))
        assert expected.startswith("".join(shown))
        if watch.found is not None:
            break
    shown.append(watch.rest())
    assert ("".join(shown), watch.found) == (expected, found)


@pytest.mark.parametrize(
    ("stop", "shown", "found"),
    [
        ("\n\n", "Total: 发票 12", "\n\n"),
        (["票 1", "zzz"], "Total: 发", "票 1"),
        (["Total"], "", "Total"),
        (("2\n\nEnd.",), "Total: 发票 1", "2\n\nEnd."),
        (["End. "], "Total: 发票 12\n\nEnd.", None),
    ],
)
def test_an_answer_ends_before_its_stop_string(deep_model: Model, stop: Any, shown: str, found: str | None) -> None:
    stream = scripted(deep_model, "Total: 发票 12\n\nEnd.", (stop,) if isinstance(stop, str) else stop)
    assert "".join(stream) == shown
    assert (stream.run.stop_string, stream.run.finish_reason) == (found, "stop" if found else "length")
    assert found is None or len(stream.run.tokens) <= len(deep_model.token_ids("Total: 发票 12\n\nEnd."))


def test_generate_and_stream_stop(deep_model: Model) -> None:
    whole = deep_model.generate(QUESTION, 40, **DRAWN)
    stop = whole[9:12]
    cut = whole[: whole.index(stop)]
    assert deep_model.generate(QUESTION, 40, stop=stop, **DRAWN) == cut
    stream = deep_model.stream(QUESTION, 40, stop=["never ever", stop], **DRAWN)
    assert "".join(stream) == cut
    assert (stream.run.finish_reason, stream.run.stop_string) == ("stop", stop)
    assert stream.run.counts.generated == len(stream.run.tokens) < 40
    assert deep_model.generate(QUESTION, 40, **DRAWN) == whole, "the model is as it was"


@pytest.mark.parametrize("stop", ["", [""], ["a", 3], 5, {"a"}, b"x"], ids=repr)
def test_bad_stop_strings(deep_model: Model, stop: Any) -> None:
    with pytest.raises(PromptError, match="stop must be "):
        deep_model.stream(QUESTION, stop=stop)


@pytest.mark.parametrize("stop", ["a", '"', ", ", "}", "票", "<|im_end|>"])
def test_an_answer_of_a_schema_is_closed_before_its_stop_string(deep_model: Model, stop: str) -> None:
    text = {"type": "string", "maxLength": 30}
    schema = {"type": "object", "properties": {"name": text, "of": {"type": "array", "items": text, "maxItems": 3}}}
    schema |= {"required": ["name", "of"], "additionalProperties": False}
    for seed in range(4):
        options = {"json_schema": schema, "temperature": 1.4, "seed": seed, "lookup": False}
        whole = deep_model.generate(QUESTION, 400, **options)
        stream = deep_model.stream(QUESTION, 400, stop=stop, **options)
        answer = "".join(stream)
        jsonschema.validate(json.loads(answer), schema)
        cut = whole.partition(stop)[0]
        assert answer == cut + stream.run.forced
        assert (stream.run.stop_string == stop) == (stop in whole)
        assert stream.run.finish_reason == "stop"


def test_generate_says_that_a_stop_string_cut_the_json(deep_model: Model) -> None:
    with pytest.warns(
        TruncatedAnswerWarning, match=r"cut off by the stop string '\[ ?'; '.*' was added to make it JSON"
    ):
        deep_model.generate(QUESTION, 40, json_schema={"type": "array", "minItems": 2}, stop="[")
