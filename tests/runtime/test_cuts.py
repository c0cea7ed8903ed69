"""Prompts of models with recurrent states: where they are cut, what is reused, and that bits stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_runtime.answers import generate
from qvl_runtime.answers.cuts import cuts, reusable
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.lookup import Lookup
from qvl_runtime.model import Model, load
from qvl_runtime.prompts.prompt import Prompt
from qvl_runtime.sessions import snapshots
from tests.conftest import Bundles

from .test_generate import ask, drawn, page

Messages = list[dict[str, Any]]
QUESTION = ask("What is the total?", page())
SAID = {"role": "assistant", "content": "12"}


@pytest.fixture(params=["cpu", "portable", "openvino"])
def model(
    bundle: Bundles, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Model]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with load(bundle("qwen3_5", "small", "fp32", request.param), threads=1) as found:
        yield found


def text(question: str) -> dict[str, Any]:
    return {"role": "user", "content": question}


def prefilled(model: Model, messages: Messages) -> tuple[np.ndarray, int, Prompt]:
    """The logits after the last prompt token, and the number of reused tokens."""
    prompt, stats = model.prompt(messages), GenerationStats()
    logits = model.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), stats)[0]
    return logits, stats.counts.reused, prompt


def fresh(model: Model, messages: Messages) -> np.ndarray:
    model.clear()
    return prefilled(model, messages)[0]


def places(model: Model, messages: Messages) -> list[int]:
    return cuts(model.prompt(messages), model.manifest.tokens.stop)


def test_cuts_are_the_end_of_images_and_of_messages_after_them(model: Model) -> None:
    prompt = model.prompt(QUESTION)
    ends = 1 + np.flatnonzero(np.isin(prompt.ids, model.manifest.tokens.stop))
    image = prompt.placed[0].span.end
    assert places(model, QUESTION) == [image, *ends[ends > image]]
    short = model.prompt([text("Hi")]).ids
    assert places(model, [text("Hi")]) == (1 + np.flatnonzero(np.isin(short, model.manifest.tokens.stop))).tolist()
    two = ask("Compare.", page(), page(1))
    assert places(model, two)[0] == model.prompt(two).placed[1].span.end, "one cut for the images of a message"
    both = [*QUESTION, SAID, *ask("And this?", page(1))]
    assert places(model, both)[:2] == [item.span.end for item in model.prompt(both).placed]


def test_answers_have_no_cuts(model: Model) -> None:
    prompt, stop = model.prompt(QUESTION), model.manifest.tokens.stop
    assert cuts(prompt.followed_by(np.array([65, stop[0], 66])), stop) == cuts(prompt, stop)


def test_reusable_cuts_are_the_same_from_the_start() -> None:
    assert reusable([5, 9, 20], [5, 9, 21], 30) == [5, 9]
    assert reusable([5, 9, 20], [5, 20], 30) == [5]
    assert reusable([5, 9, 20], [5, 9, 20], 19) == [5, 9]
    assert reusable([], [5], 9) == reusable([5], [], 9) == []


@pytest.mark.parametrize("chunk", [16, 1024])
def test_a_second_question_reuses_the_image_to_the_bit(
    model: Model, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "PREFILL_CHUNK", chunk)
    other = ask("Who sent it?", page())
    expected = fresh(model, other)
    model.clear()
    drawn(model, QUESTION)
    logits, reused, prompt = prefilled(model, other)
    assert reused == prompt.placed[0].span.end
    assert np.array_equal(logits, expected)


def test_another_turn_reuses_the_last_message_to_the_bit(model: Model) -> None:
    turn = [*QUESTION, SAID, text("And the tax?")]
    expected = fresh(model, turn)
    model.clear()
    drawn(model, QUESTION)
    logits, reused, _ = prefilled(model, turn)
    assert reused == places(model, QUESTION)[-1] > model.prompt(QUESTION).placed[0].span.end
    assert np.array_equal(logits, expected)


def test_the_same_prompt_and_a_shorter_one(model: Model) -> None:
    """The cache has more than these prompts: nothing is cut off a state."""
    expected = fresh(model, QUESTION)
    for messages in ([*QUESTION, SAID, text("And the tax?")], QUESTION):
        drawn(model, messages)
        logits, reused, _ = prefilled(model, QUESTION)
        assert reused > 0 and np.array_equal(logits, expected)


def test_a_prompt_that_is_cut_elsewhere_starts_over(model: Model) -> None:
    """Two images in a message have one cut, after the second: the state after the first would have other bits."""
    two = ask("What is the total?", page(), page(1))
    expected = fresh(model, two)
    drawn(model, QUESTION)
    logits, reused, _ = prefilled(model, two)
    assert reused == 0 and np.array_equal(logits, expected)


def test_what_another_prompt_replaced_is_gone(model: Model) -> None:
    first, other = fresh(model, QUESTION), ask("What is the total?", page(3))
    drawn(model, QUESTION)
    drawn(model, other)
    logits, reused, _ = prefilled(model, QUESTION)
    assert reused == 0 and np.array_equal(logits, first)


def test_snapshots_are_bounded_and_keep_the_images(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy after the image saves the most tokens."""
    monkeypatch.setattr(snapshots, "SNAPSHOTS", 2)
    large = page(0, (600, 400))
    chat = [*ask("What is the total?", large), *(message for n in range(4) for message in (SAID, text(f"Number {n}?")))]
    drawn(model, chat)
    kept = model.engine.llm.states._snapshots
    assert len(list(kept.counts())) == 2 and model.prompt(chat).placed[0].span.end in kept
    other = ask("Who sent it?", large)
    logits, reused, _ = prefilled(model, other)
    assert reused > 0 and np.array_equal(logits, fresh(model, other))


@pytest.mark.parametrize("moment", range(6))
def test_an_interrupted_prompt_leaves_nothing_wrong(model: Model, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 16)
    expected = fresh(model, QUESTION)
    model.clear()
    forward, calls = model.engine.forward, iter(range(99))

    def interrupted(inputs: Any) -> Any:
        if next(calls) == moment:
            raise KeyboardInterrupt
        return forward(inputs)

    with monkeypatch.context() as patch:
        patch.setattr(model.engine, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            drawn(model, QUESTION)
    assert np.array_equal(prefilled(model, QUESTION)[0], expected)


class Wrong(Lookup):
    """Guesses the tokens of an answer that is known, of which some are wrong."""

    def __init__(self, answer: list[int], wrong: set[int]) -> None:
        super().__init__([])
        self.answer, self.wrong = answer, wrong

    def guess(self, most: int) -> list[int]:
        start = len(self._tokens)
        guesses = self.answer[start : start + min(most, 4)]
        return [token ^ 1 if start + index in self.wrong else token for index, token in enumerate(guesses)]


@pytest.mark.parametrize("wrong", [set(), {1}, {3, 4}, {2, 5, 7, 8, 11}, set(range(0, 24, 2)), set(range(24))])
def test_refused_guesses_leave_no_trace_in_the_state(model: Model, wrong: set[int]) -> None:
    limit, prompt = 24, model.prompt(QUESTION)

    def answer(lookup: Lookup | None) -> tuple[list[int], list[np.ndarray]]:
        seen: list[np.ndarray] = []

        def pick(logits: np.ndarray) -> int:
            seen.append(logits)
            return int(np.argmax(logits[: 256 + len(seen) % 7]))  # answers that do not repeat one token

        stats = GenerationStats()
        return list(model.decoder.generate(prompt, limit, frozenset(), pick, stats, lookup=lookup)), seen

    tokens, logits = answer(None)
    ours, guessed = answer(Wrong(tokens, wrong))
    assert ours == tokens
    assert np.abs(np.stack(guessed) - np.stack(logits)).max() < 1e-3


def test_a_long_run_that_is_refused_continues_within_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """More tokens than a call takes: the last call alone is undone."""
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 4)
    prompt, tokens = model.prompt(QUESTION), [60 + index for index in range(10)]
    run = model.decoder._run
    model.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), GenerationStats())
    number, stats, halt = model.decoder._prompt_count, GenerationStats(), generate.Halt()
    run(number, prompt, stats, halt, [*tokens, 33, 34], 0, 2)
    again = run(number, prompt, stats, halt, [*tokens, 35], 0, 0)[0]
    model.clear()
    whole = model.decoder.prefill(
        prompt.followed_by(np.array([*tokens, 35])), np.array([len(prompt.ids) + 10]), GenerationStats()
    )
    assert np.abs(again - whole[0]).max() < 1e-3
