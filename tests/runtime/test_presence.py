"""The presence penalty against its definition, and together with the other options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime import __main__ as cli
from qvl_runtime.answers.presence import PresencePenalty
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model
from tests.runtime.test_endings import QUESTION

VOCAB = 8
rows = st.lists(st.lists(st.floats(-9, 9, width=32), min_size=VOCAB, max_size=VOCAB), min_size=1, max_size=9)


@given(rows, st.sampled_from([-2.0, 0.25, 1.5]))
def test_generated_tokens_lose_the_amount_once(table: list[list[float]], amount: float) -> None:
    """vLLM: logits −= presence_penalty · (output_bin_counts > 0)."""
    seen: list[np.ndarray] = []

    def greedy(logits: np.ndarray) -> int:
        seen.append(logits)
        return int(logits.argmax())

    pick, said = PresencePenalty(amount).picker(greedy), list[int]()
    for row in table:
        logits = np.array(row, np.float32)
        expected = [value - np.float32(amount) * (index in said) for index, value in enumerate(logits)]
        said.append(pick(logits))
        assert seen[-1].tolist() == expected
        assert logits.tolist() == np.array(row, np.float32).tolist(), "the model's logits are not changed"


def test_a_large_amount_makes_answers_vary_whatever_the_prompt_holds(deep_model: Model) -> None:
    def tokens(**options: Any) -> list[int]:
        stream = deep_model.stream(QUESTION, 40, **options)
        list(stream)
        return stream.run.tokens

    plain, penalized = tokens(), tokens(presence_penalty=2.0)
    assert tokens(presence_penalty=0.0) == plain
    assert penalized != plain and len(set(penalized)) > len(set(plain))
    assert penalized[0] == plain[0], "the prompt does not count"


def test_an_answer_of_a_schema_stays_one(deep_model: Model) -> None:
    schema = {"type": "array", "minItems": 30, "maxItems": 30, "items": {"enum": [1, 2]}}
    answer = deep_model.generate(QUESTION, 300, json_schema=schema, presence_penalty=2, repetition_penalty=1.2)
    assert len(json.loads(answer)) == 30


@pytest.mark.parametrize("value", [2.1, -2.1, float("nan"), "1", True, None], ids=repr)
def test_out_of_range(deep_model: Model, value: Any) -> None:
    with pytest.raises(PromptError, match="presence_penalty must be "):
        deep_model.generate(QUESTION, 3, presence_penalty=value)


def test_the_command_line(deep_path: Path, deep_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert cli.main(["run", str(deep_path), "--max-new-tokens", "20", "--presence-penalty", "1.5", "Hi"]) == 0
    assert capsys.readouterr().out == deep_model.generate(asked, 20, presence_penalty=1.5) + "\n"
    assert cli.main(["run", str(deep_path), "--presence-penalty", "3", "Hi"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
