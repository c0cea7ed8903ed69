"""L4: bundles of the trained checkpoints read as well as transformers does, quantized ones nearly so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from qvl_runtime.model import Model, load
from qvl_runtime.sessions.layer_states import RecurrentStates
from tests.checkpoints.reader import FAMILIES
from tests.exporter.test_parity import oracle_inputs
from tests.heldout import Item, character_error_rate, items

pytestmark = pytest.mark.slow

PAGES = 100
STATED = {"qwen2_5_vl": 0.04, "qwen3_vl": 0.13, "qwen3_5": 0.13}
"""The character error rates of the checkpoints on these pages are 3.3 %, 12.1 % and @@ %, see their READMEs."""
LOST = {"int8": 0.02, "int4": 0.02}
"""What quantizing may cost; measured were 1.0 and 0.7 points for Qwen3-VL, @@ and @@ for Qwen3.5."""
FORGETFUL = 1.5
"""Times the error rate of Qwen3.5 without its recurrent states after the prompt; measured were @@ %."""
BLIND = 0.9
"""Without DeepStack it has 94 %: nothing is read."""
LIMIT = 160

Bundle = Callable[[str, str], Path]


def questions() -> list[Item]:
    found = list(items("ocr", PAGES))
    assert len(found) == PAGES
    return found


def error_rate(model: Model) -> float:
    answers = [model.generate(item.messages, max_new_tokens=LIMIT) for item in questions()]
    return character_error_rate(answers, [item.answer for item in questions()])


@pytest.fixture(scope="module")
def float_rate(reader_bundle: Bundle) -> Callable[[str], float]:
    """The character error rate of a family's fp16 bundle."""
    cache: dict[str, float] = {}

    def get(family: str) -> float:
        if family not in cache:
            cache[family] = error_rate(load(reader_bundle(family, "fp16"), threads=1))
        return cache[family]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("family", STATED)
def test_same_character_error_rate_as_transformers(
    family: str, reader_bundle: Bundle, float_rate: Callable[[str], float]
) -> None:
    model = load(reader_bundle(family, "fp16"), threads=1)
    oracle = AutoModelForImageTextToText.from_pretrained(FAMILIES[family].directory, dtype=torch.float32).eval()
    theirs = []
    for item in questions():
        prompt = model.prompt(item.messages, LIMIT)
        with torch.no_grad():
            ids = oracle.generate(**oracle_inputs(model, prompt), max_new_tokens=LIMIT, do_sample=False)
        theirs.append(model.tokenizer.decode(ids[0, len(prompt.ids) :].tolist(), skip_special_tokens=True))
    expected = character_error_rate(theirs, [item.answer for item in questions()])
    assert expected <= STATED[family]
    assert abs(float_rate(family) - expected) <= 0.002


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize("precision", LOST)
def test_quantized_readers_read(
    precision: str, family: str, reader_bundle: Bundle, float_rate: Callable[[str], float]
) -> None:
    """Also with what their towers or layers do differently: DeepStack, and linear attention."""
    rate = error_rate(load(reader_bundle(family, precision), threads=1))
    assert rate <= float_rate(family) + LOST[precision]


@pytest.mark.slow
def test_pages_are_not_read_without_deepstack(
    reader_bundle: Bundle, float_rate: Callable[[str], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DeepStack features, which enter after the first layer, are needed for reading."""
    model = load(reader_bundle("qwen3_vl", "fp16"), threads=1)
    encode = model.engine.encode

    def plain(*arguments: Any) -> np.ndarray:
        features = encode(*arguments)
        features[1:] = 0
        return features

    monkeypatch.setattr(model.engine, "encode", plain)
    assert error_rate(model) > BLIND > 5 * float_rate("qwen3_vl")


@pytest.mark.slow
def test_pages_are_read_worse_without_recurrent_states(
    reader_bundle: Bundle, float_rate: Callable[[str], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states of linear attention, zeroed once the prompt is known, carry what attention does not find again."""
    model = load(reader_bundle("qwen3_5", "fp16"), threads=1)
    bind, prompt_tokens = RecurrentStates.bind, {0}

    def forgetful(states: RecurrentStates, past: int, *rest: Any) -> None:
        bind(states, past, *rest)
        if past in prompt_tokens:
            for value in states._slots[states._tokens.index(past)].values():
                value.update_inplace(np.zeros(value.shape(), np.float32))

    monkeypatch.setattr(RecurrentStates, "bind", forgetful)
    answers = []
    for item in questions():
        prompt_tokens.clear()
        prompt_tokens.add(len(model.prompt(item.messages, LIMIT).ids))
        answers.append(model.generate(item.messages, max_new_tokens=LIMIT))
    rate = character_error_rate(answers, [item.answer for item in questions()])
    assert rate > FORGETFUL * float_rate("qwen3_5")
