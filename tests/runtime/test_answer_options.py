"""Options of an answer: numbers of any type, and values that are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_runtime.answers.sampling import Sampling
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model, load
from tests.runtime.test_endings import QUESTION


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True])
def test_bad_timeouts(deep_model: Model, timeout: Any) -> None:
    with pytest.raises(PromptError, match="timeout must be "):
        deep_model.generate(QUESTION, timeout=timeout)


NUMPY: dict[str, Any] = {
    "max_new_tokens": np.int64(5),
    "temperature": np.float32(0.5),
    "top_p": np.float64(0.9),
    "top_k": np.int32(7),
    "seed": np.uint8(3),
    "min_p": np.float16(0.25),
    "repetition_penalty": np.float32(1.5),
    "no_repeat_ngram_size": np.int64(2),
    "timeout": np.int64(500),
}


def test_numbers_of_numpy_are_numbers(deep_model: Model, deep_path: Path) -> None:
    plain = {name: value.item() for name, value in NUMPY.items()}
    assert deep_model.generate(QUESTION, **NUMPY) == deep_model.generate(QUESTION, **plain)
    assert load(deep_path, threads=np.int64(1)).generate(QUESTION, 3) == deep_model.generate(QUESTION, 3)
    assert Sampling(np.float32(1), seed=np.int64(2)) == Sampling(1.0, seed=2)


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_p", "top_k", "seed", "timeout"])
@pytest.mark.parametrize("value", [True, np.bool_(True), np.float64("nan"), [1], "1"], ids=repr)
def test_what_is_not_a_number_is_refused(deep_model: Model, name: str, value: Any) -> None:
    with pytest.raises(PromptError, match=f"{name} must be ") as caught:
        deep_model.generate(QUESTION, **{"max_new_tokens": 3, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_k", "seed", "repetition_penalty", "timeout"])
@pytest.mark.parametrize("value", [-(10**400), -(10**5000)], ids=["beyond floats", "beyond what Python writes"])
def test_numbers_of_any_length_are_refused(deep_model: Model, name: str, value: int) -> None:
    with pytest.raises(PromptError, match=f"{name} must be "):
        deep_model.generate(QUESTION, **{"max_new_tokens": 3, name: value})


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty", "timeout"])
def test_numbers_beyond_all_floats_are_refused(deep_model: Model, name: str) -> None:
    with pytest.raises(PromptError, match=f"{name} must be a finite number .* got 1000"):
        deep_model.generate(QUESTION, **{"max_new_tokens": 3, name: 10**400})


def test_other_options_quote_numbers_of_any_length(deep_model: Model) -> None:
    with pytest.raises(PromptError, match=r"stop must be .* got a number of thousands of digits"):
        deep_model.generate(QUESTION, 3, stop=10**5000)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"the answer must be .* got a number of thousands of digits"):
        deep_model.logits(QUESTION, [10**5000])
