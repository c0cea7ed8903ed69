"""Answers that loop are stopped and marked; what pages really repeat is not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime import TruncatedAnswerWarning
from qvl_runtime import __main__ as cli
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.loops import LONGEST, REPEATS, TOKENS, LoopDetector, stopping_loops
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model
from tests.conftest import REFERENCE, Loader
from tests.runtime.test_endings import QUESTION

ROOT = Path(__file__).parents[2]


def found(tokens: Sequence[int]) -> list[int]:
    detector = LoopDetector()
    return [detector.add(token) for token in tokens]


def naive(tokens: Sequence[int], period: int) -> bool:
    """Whether the tokens end in a part of `period` tokens that occurs often enough, by its definition."""
    length = max(REPEATS * period, TOKENS)
    end = tokens[-length:]
    return len(end) == length and all(end[i] == end[i - period] for i in range(period, length))


@given(st.lists(st.integers(0, 2), max_size=20), st.lists(st.integers(0, 2), min_size=1, max_size=9), st.data())
def test_against_the_definition(start: list[int], part: list[int], data: st.DataObject) -> None:
    tokens = (start + part * TOKENS)[: data.draw(st.integers(1, len(start) + TOKENS + 9))]
    expected = next((period for period in range(1, LONGEST + 1) if naive(tokens, period)), 0)
    assert found(tokens)[-1] == expected


@pytest.mark.parametrize("period", [1, 2, 31, 33, 100, LONGEST])
def test_a_loop_is_found_as_soon_as_it_is_one(period: int) -> None:
    part = np.random.default_rng(period).permutation(1000)[:period].tolist()
    length = max(REPEATS * period, TOKENS)
    lengths = found([5000, *part * (length // period + 1)][: 1 + length])
    assert (lengths[-1], set(lengths[:-1])) == (period, {0})


def test_a_part_that_is_too_long_is_none() -> None:
    assert not any(found(np.random.default_rng(0).permutation(2 * LONGEST)[: LONGEST + 1].tolist() * 6))


def test_no_truth_of_the_sets_is_a_loop(reference_tokens: list[list[int]]) -> None:
    assert len(reference_tokens) > 500
    assert not any(length for tokens in reference_tokens for length in found(tokens))


@pytest.fixture(scope="module")
def reference_tokens() -> list[list[int]]:
    """The true answers of all sets, as the reference checkpoint's tokenizer splits them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(REFERENCE / "tokenizer.json"))
    labels = [
        json.loads(line)
        for folder in ("calibration", "heldout", "samples")
        for line in (ROOT / "calib_data" / folder / "labels.jsonl").read_text("utf-8").splitlines()
    ]
    return [tokenizer.encode(answer).ids for label in labels for answer in label.get("answers", [])]


def test_the_source_is_closed_and_the_end_marked() -> None:
    run, closed = GenerationStats(), list[bool]()

    def source() -> Generator[int]:
        try:
            for _ in range(1000):
                yield 7
        finally:
            closed.append(True)
            run.finish_reason = run.finish_reason or "cancelled"

    assert len(list(stopping_loops(source(), run))) == TOKENS
    assert (run.finish_reason, run.loop, closed) == ("loop", 1, [True])


def test_an_answer_without_a_loop_is_the_same(deep_model: Model) -> None:
    drawn = {"temperature": 1.3, "seed": 3}
    assert deep_model.generate(QUESTION, 200, **drawn) == deep_model.generate(QUESTION, 200, stop_loops=True, **drawn)


@pytest.fixture
def looper(model: Loader) -> Model:
    """Its input and output embeddings are one table: greedy answers of random weights loop."""
    return model("qwen2_5_vl", "small", "fp32")


def test_a_looping_answer_is_stopped_and_closed(looper: Model) -> None:
    stream = looper.stream(QUESTION, 600, stop_loops=True)
    text = "".join(stream)
    assert (stream.run.finish_reason, stream.run.loop > 0) == ("loop", True)
    assert TOKENS <= len(stream.run.tokens) < 600
    assert looper.generate(QUESTION, 600).startswith(text)
    schema = {"type": "object", "properties": {"text": {"type": "string", "minLength": 700}}, "required": ["text"]}
    stream = looper.stream(QUESTION, 900, json_schema=schema, stop_loops=True)
    assert json.loads("".join(stream))["text"]
    assert stream.run.finish_reason == "loop" and stream.run.forced


def test_generate_says_so(looper: Model) -> None:
    with pytest.warns(TruncatedAnswerWarning, match=r"stopped after \d+ tokens, of which the last \d+ repeat"):
        looper.generate(QUESTION, 600, stop_loops=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looper.generate(QUESTION, 60, stop_loops=True)
    with pytest.raises(PromptError, match="stop_loops must be True, False"):
        looper.generate(QUESTION, 3, stop_loops=1)  # type: ignore[arg-type]


def test_the_command_line(looper: Model, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", str(looper.bundle), "--max-new-tokens", "600", "--stop-loops", "What is the total?"]
    assert cli.main(run) == 0
    err = capsys.readouterr().err
    assert err.startswith("note: the answer was stopped, its last ") and err.count("\n") == 1
    assert cli.main([*run, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["finish_reason"], out["loop"] > 0) == ("loop", True)
