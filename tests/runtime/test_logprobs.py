"""Log probabilities are the model's own, whatever chose the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qvl_runtime import __main__ as cli
from qvl_runtime.answers.logprobs import TokenLogprob, log_softmax, recording
from qvl_runtime.answers.stream import Stream
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model
from tests.runtime.test_endings import DRAWN, QUESTION


def streamed(model: Model, most: int = 12, **options: Any) -> Stream:
    stream = model.stream(QUESTION, most, logprobs=True, **options)
    list(stream)
    return stream


def test_log_softmax_is_that_of_torch() -> None:
    logits = np.random.default_rng(0).normal(0, 30, 500).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    assert np.abs(log_softmax(logits) - expected).max() < 1e-12


@pytest.mark.parametrize(
    "options",
    [{}, DRAWN, {"repetition_penalty": 1.8, "presence_penalty": 1.0}, {"lookup": True}]
    + [{"json_schema": {"type": "array", "minItems": 9, "items": {"enum": ["total", "sum"]}}}],
    ids=str,
)
def test_they_are_those_of_teacher_forcing(deep_model: Model, options: dict[str, Any]) -> None:
    run = streamed(deep_model, top_logprobs=4, **options).run
    forced = [log_softmax(row) for row in deep_model.logits(QUESTION, run.tokens)]
    assert [entry.token for entry in run.logprobs] == run.tokens
    for entry, row in zip(run.logprobs, forced, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token], abs=1e-4)
        assert [token for token, _ in entry.top] == np.argsort(-row, kind="stable")[:4].tolist()
        assert [value for _, value in entry.top] == pytest.approx(np.sort(row)[::-1][:4], abs=1e-4)


def test_options_that_are_not_given_record_nothing(deep_model: Model) -> None:
    stream = deep_model.stream(QUESTION, 5)
    list(stream)
    assert stream.run.logprobs == []
    assert [entry.top for entry in streamed(deep_model, 5).run.logprobs] == [()] * 5


def test_a_stop_token_is_no_part_of_the_answer() -> None:
    found: list[TokenLogprob] = []
    script = iter([3, 1, 7])
    pick = recording(lambda _: next(script), 9, found, {7})
    for _ in range(3):
        pick(np.array([0, 2, 2, 1, 0, 0, 0, 0], np.float32))
    assert [entry.token for entry in found] == [3, 1]
    assert [token for token, _ in found[0].top] == [1, 2, 3, 0, 4, 5, 6, 7], "all there are; equal ones by id"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs must be a whole number <= 20"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs must be a whole number >= 0"),
        ({"logprobs": 5}, r"logprobs must be True or False \(top_logprobs is the number"),
    ],
)
def test_bad_options(deep_model: Model, options: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        deep_model.stream(QUESTION, 5, **options)


def test_the_command_line(deep_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", str(deep_path), "--max-new-tokens", "4", "Hi"]
    assert cli.main([*run, "--json", "--top-logprobs", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["token"] for entry in found["logprobs"]] == found["tokens"]
    assert [len(entry["top"]) for entry in found["logprobs"]] == [2] * 4
    assert cli.main([*run, "--top-logprobs", "2"]) == 2
    assert capsys.readouterr().err == "error: --top-logprobs needs --json\n"
