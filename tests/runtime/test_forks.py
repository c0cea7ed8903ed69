"""Forks of a model: answers at the same time that are those of one after the other, and beginnings that they share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_runtime.errors import EngineError, PromptError
from qvl_runtime.model import Model, load
from tests.conftest import Bundles

PAGE = np.random.default_rng(0).integers(0, 256, (140, 168, 3), dtype=np.uint8)
DRAWN = {"temperature": 1.3, "seed": 3}


def about(text: str, page: Any = PAGE) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": page}, {"type": "text", "text": text}]}]


@pytest.fixture(params=["cpu", "portable", "openvino"])
def path(bundle: Bundles, request: pytest.FixtureRequest) -> Path:
    return bundle("qwen2_5_vl", "deep", "fp32", request.param)


def counted(model: Model, question: list[dict[str, Any]]) -> tuple[str, int]:
    """The answer, and how many prompt tokens were not run for it."""
    stream = model.stream(question, 12, **DRAWN)
    return "".join(stream), stream.run.counts.reused


@pytest.mark.filterwarnings("ignore::qvl_runtime.errors.TruncatedAnswerWarning")
def test_forks_answer_at_the_same_time(path: Path) -> None:
    questions = [about(f"What is line {index}?") for index in range(6)]
    questions += [[{"role": "user", "content": f"Say {index}."}] for index in range(6)]
    expected = [load(path, threads=1).generate(question, 20, **DRAWN) for question in questions]
    base = load(path, threads=1)
    forks = [base, base.fork(), base.fork()]
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    closed = base.generate(questions[0], 9, json_schema=schema, **DRAWN)

    def answers(index: int) -> list[str]:
        texts = [forks[index].generate(question, 20, **DRAWN) for question in questions]
        return [*texts, forks[index].generate(questions[0], 9, json_schema=schema, **DRAWN)]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(answers, range(3))) == [[*expected, closed]] * 3
    assert base.features.misses == 1 and base.features.hits >= 2, "one page, encoded once for all"


def test_a_fork_takes_over_the_beginning_of_a_prompt(path: Path) -> None:
    base, second = load(path, threads=1), about("And the date?")
    fork, expected = base.fork(), counted(load(path, threads=1), second)[0]
    base.generate(about("What is the total?"), 5)
    prompt = fork.prompt(second, 12)
    own = base.decoder.shared(prompt)
    assert own > 20 and fork.decoder.shared(prompt) == 0
    assert fork.decoder.adopt(base.decoder, prompt) is True
    assert fork.decoder.shared(prompt) == own
    assert counted(fork, second) == (expected, own)
    assert fork.decoder.adopt(base.decoder, prompt) is False, "it has all of it already"
    assert base.decoder.shared(base.prompt(about("What is the total?"))) > own, "the other keeps its own"


def test_the_other_may_be_answering(path: Path) -> None:
    base, second = load(path, threads=1), about("And the date?")
    fork, expected = base.fork(), counted(load(path, threads=1), second)[0]
    whole = load(path, threads=1).generate(about("What is the total?"), 700, **DRAWN)
    stream = base.stream(about("What is the total?"), 700, **DRAWN)
    first = next(stream)
    rest: list[str] = []
    reading = threading.Thread(target=lambda: rest.extend(stream))
    reading.start()
    for _ in range(4):
        fork.clear()
        prompt = fork.prompt(second, 12)
        assert fork.decoder.adopt(base.decoder, prompt)
        assert counted(fork, second)[0] == expected
    reading.join()
    assert first + "".join(rest) == whole


def test_a_copy_that_another_prompt_has_overtaken_is_discarded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, second = load(path, threads=1), about("And the date?")
    fork, expected = base.fork(), counted(load(path, threads=1), second)[0]
    base.generate(about("What is the total?"), 5)
    adopt = fork.engine.adopt  # type: ignore[attr-defined]

    def overtaken(other: Any, tokens: int) -> None:
        adopt(other, tokens)
        base.generate(about("Something else", 255 - PAGE), 2)

    monkeypatch.setattr(fork.engine, "adopt", overtaken)
    assert fork.decoder.adopt(base.decoder, fork.prompt(second, 12)) is False
    assert counted(fork, second) == (expected, 0)


def test_a_fork_and_its_origin_end_apart(path: Path) -> None:
    base = load(path, threads=1)
    fork, question = base.fork(), [{"role": "user", "content": "Hi"}]
    expected = base.generate(question, 9)
    base.close()
    assert fork.generate(question, 9) == expected
    with pytest.raises(EngineError, match="the model is closed"):
        base.fork()
    fork.close()


def test_states_of_recurrent_layers_are_not_copied(bundle: Bundles) -> None:
    base = load(bundle("qwen3_5", "deep", "fp32"), threads=1)
    fork, second = base.fork(), about("And the date?")
    expected = base.generate(about("What is the total?"), 5)
    assert fork.decoder.adopt(base.decoder, fork.prompt(second, 12)) is False
    assert fork.generate(about("What is the total?"), 5) == expected


def test_engines_that_cannot_share(deep_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(deep_path, threads=1)
    monkeypatch.setattr(model, "engine", object())
    with pytest.raises(EngineError, match=r"engines of target 'cpu' compute one answer at a time \(load the bundle"):
        model.fork()


def test_a_prompt_in_place_of_messages(deep_model: Model) -> None:
    question = about("What is the total?")
    prompt = deep_model.prompt(question, 20)
    assert "".join(deep_model.stream(prompt, 20, **DRAWN)) == deep_model.generate(question, 20, **DRAWN)
    room = deep_model.manifest.llm.max_length - len(prompt.ids)
    assert deep_model.stream(prompt, room).prompt is prompt
    with pytest.raises(PromptError, match=f"a prompt of {len(prompt.ids)} tokens and an answer of {room + 1} do not"):
        deep_model.stream(prompt, room + 1)
