"""The decoding loop: chunks, caches and streams change nothing but the time an answer takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime.answers import generate
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.errors import MediaError, PromptError
from qvl_runtime.model import Model, load
from qvl_runtime.prompts.prompt import Prompt
from qvl_runtime.sessions import cpu, layer_states

PRECISE = 1e-4


class Calls:
    """Counts an engine's calls, and the tokens of each language call."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images, self.tokens = 0, []
        encode, forward = model.engine.encode, model.engine.forward

        def counted_encode(*arguments: Any) -> Any:
            self.images += 1
            return encode(*arguments)

        def counted_forward(inputs: Any) -> Any:
            self.tokens.append(len(inputs.ids))
            return forward(inputs)

        monkeypatch.setattr(model.engine, "encode", counted_encode)
        monkeypatch.setattr(model.engine, "forward", counted_forward)


def page(seed: int = 0, size: tuple[int, int] = (200, 120)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ask(question: str, *pages: Image.Image) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image} for image in pages]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def prompt_logits(model: Model, messages: list[dict[str, Any]]) -> np.ndarray:
    """Logits after the last prompt token, using everything that the model has cached."""
    prompt = model.prompt(messages)
    return model.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), GenerationStats())[0]


def drawn(model: Model, messages: list[dict[str, Any]], **options: Any) -> GenerationStats:
    stream = model.stream(messages, **{"max_new_tokens": 12, **options})
    list(stream)
    return stream.run


def test_pieces_join_to_the_answer(fresh: Model) -> None:
    options = {"max_new_tokens": 40, "temperature": 1.3, "seed": 3}
    pieces = list(fresh.stream(ask("Read.", page()), **options))
    assert len(pieces) > 3
    assert all(pieces)
    assert "".join(pieces) == fresh.generate(ask("Read.", page()), **options)


def test_max_new_tokens_and_finish_reason(fresh: Model, varied_path: Path) -> None:
    run = drawn(fresh, ask("Read."), max_new_tokens=5)
    assert (len(run.tokens), run.finish_reason, run.counts.generated) == (5, "length", 5)
    assert run.counts.prompt == len(fresh.prompt(ask("Read.")).ids)
    for count in (0, -3):
        with pytest.raises(PromptError, match="max_new_tokens must be a whole number >= 1, got"):
            fresh.stream(ask("Read."), max_new_tokens=count)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_stop_token_ends_the_answer_unspoken(fresh: Model, place: int) -> None:
    prompt, run = fresh.prompt(ask("Read.")), GenerationStats()
    script = iter([60, 61, 62, 63, 64, 65])
    stop = frozenset({60 + place})
    assert list(fresh.decoder.generate(prompt, 6, stop, lambda _: next(script), run)) == list(range(60, 60 + place))
    assert run.finish_reason == "stop"
    assert run.counts.generated == place


def test_a_seed_repeats_an_answer(fresh: Model, varied_path: Path) -> None:
    options = {"temperature": 1.5, "top_p": 0.95, "max_new_tokens": 30}
    first = drawn(fresh, ask("Read.", page()), seed=5, **options).tokens
    assert first == drawn(load(varied_path, threads=1), ask("Read.", page()), seed=5, **options).tokens
    assert first != drawn(fresh, ask("Read.", page()), seed=6, **options).tokens


def test_a_growing_kv_cache_changes_nothing(fresh: Model, varied_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"temperature": 1.5, "seed": 1, "max_new_tokens": 60}
    question = ask("Read the text.", page())
    whole = drawn(fresh, question, **options)
    expected = prompt_logits(fresh, ask("And now?", page()))
    monkeypatch.setattr(layer_states, "CACHE_STEP", 16)
    small = load(varied_path, threads=1)
    assert drawn(small, question, **options).tokens == whole.tokens
    assert small.engine.llm.cache.capacity % 16 == 0
    assert 0 <= small.engine.llm.cache.capacity - (whole.counts.prompt + 59) < 16
    assert np.abs(prompt_logits(small, ask("And now?", page())) - expected).max() < PRECISE


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_prefill_in_chunks_changes_nothing(
    fresh: Model, varied_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk borders fall inside images and at their edges."""
    messages = ask("Compare these.", page(), page(1, (60, 60)), page(2, (90, 300)))
    prompt = fresh.prompt(messages)
    everywhere = np.arange(len(prompt.ids))
    whole = fresh.decoder.prefill(prompt, everywhere, GenerationStats())
    monkeypatch.setattr(generate, "PREFILL_CHUNK", chunk)
    other = load(varied_path, threads=1)
    calls = Calls(other, monkeypatch)
    logits = other.decoder.prefill(prompt, everywhere, GenerationStats())
    assert np.abs(logits - whole).max() < PRECISE
    assert max(calls.tokens) == chunk
    assert calls.images == 3
    last = np.array([len(prompt.ids) - 1])
    assert (
        np.abs(load(varied_path, threads=1).decoder.prefill(prompt, last, GenerationStats()) - whole[-1]).max()
        < PRECISE
    )


def test_a_second_question_reuses_the_page(fresh: Model, varied_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(fresh, monkeypatch)
    image_tokens = drawn(fresh, ask("What is the total?", page())).counts.image
    second = drawn(fresh, ask("Who sent it?", page()))
    assert second.counts.reused > image_tokens > 0
    assert calls.images == 1
    expected = prompt_logits(load(varied_path, threads=1), ask("Which date?", page()))
    assert np.abs(prompt_logits(fresh, ask("Which date?", page())) - expected).max() < PRECISE


def test_a_changed_pixel_is_seen(fresh: Model, varied_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(fresh, monkeypatch)
    other = page()
    other.putpixel((199, 119), tuple(255 - value for value in other.getpixel((199, 119))))
    drawn(fresh, ask("What is the total?", page()))
    run = drawn(fresh, ask("What is the total?", other))
    assert run.counts.reused < fresh.prompt(ask("x", other)).placed[0].span.start + 1
    assert calls.images == 2
    expected = prompt_logits(load(varied_path, threads=1), ask("Who?", other))
    assert np.abs(prompt_logits(fresh, ask("Who?", other)) - expected).max() < PRECISE


def test_the_same_frames_at_another_speed_are_not_reused(fresh: Model, varied_path: Path) -> None:
    def video(fps: float) -> list[dict[str, Any]]:
        frames = [page(seed, (84, 56)) for seed in range(6)]
        return [{"role": "user", "content": [{"type": "video", "video": frames, "fps": fps}, *ask("x")[0]["content"]]}]

    drawn(fresh, video(2))
    expected = prompt_logits(load(varied_path, threads=1), video(0.5))
    assert np.abs(prompt_logits(fresh, video(0.5)) - expected).max() < PRECISE


def test_a_conversation_continues(fresh: Model, varied_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(fresh, monkeypatch)
    first = ask("What is the total?", page())
    answered = drawn(fresh, first)
    turns = [*first, {"role": "assistant", "content": "The total is 12."}, *ask("And on this one?", page(1))]
    run = drawn(fresh, turns)
    assert run.counts.reused >= answered.counts.prompt
    assert calls.images == 2
    expected = prompt_logits(load(varied_path, threads=1), turns)
    assert np.abs(prompt_logits(fresh, turns) - expected).max() < PRECISE


def test_an_abandoned_stream_leaves_the_model_right(fresh: Model, varied_path: Path) -> None:
    stream = fresh.stream(ask("What is the total?", page()), temperature=1.0, seed=2)
    next(stream)
    next(stream)
    run = drawn(fresh, ask("What is the date?", page()))
    assert run.counts.reused > 0
    assert run.tokens == drawn(load(varied_path, threads=1), ask("What is the date?", page())).tokens


def test_a_newer_prompt_ends_an_older_stream(fresh: Model, varied_path: Path) -> None:
    """Two answers share one KV cache: going on with the first would silently mix them."""
    expected = fresh.generate(ask("What is the date?"), max_new_tokens=20)
    older = fresh.stream(ask("What is the total?", page()), max_new_tokens=20)
    newer = fresh.stream(ask("What is the date?"), max_new_tokens=20)
    pieces = [next(older), next(newer)][1:]
    with pytest.raises(PromptError, match="another prompt was started on this model"):
        list(older)
    assert "".join([*pieces, *newer]) == expected
    stream = fresh.stream(ask("What is the total?"), max_new_tokens=20)
    next(stream)
    fresh.logits(ask("What is the date?"), "12")
    with pytest.raises(PromptError, match="load the bundle twice"):
        list(stream)


def test_teacher_forced_logits_equal_single_steps(fresh: Model, varied_path: Path) -> None:
    messages, answer = ask("What is the total?", page()), "Total 12.50 元 😀"
    forced = fresh.logits(messages, answer)
    ids = fresh.token_ids(answer)
    assert forced.shape == (len(ids), fresh.manifest.llm.vocab_size)
    other = load(varied_path, threads=1)
    prompt = other.prompt(messages)
    steps = [prompt_logits(other, messages)]
    for index, token in enumerate(ids[:-1]):
        steps.append(other.decoder.step(token, prompt.next_position + index))
    assert np.abs(forced - np.stack(steps)).max() < PRECISE
    again = fresh.logits(messages, answer)  # through the cached prefix
    assert np.abs(forced - again).max() < PRECISE
    with pytest.raises(PromptError, match="the answer must be a text or ids from 0"):
        fresh.logits(messages, "")


class Failing(Exception):
    """What a broken engine raises."""


@pytest.mark.parametrize("part", ["encode", "forward"])
def test_errors_leave_the_model_usable(
    fresh: Model, varied_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawn(load(varied_path, threads=1), ask("What is the date?", page(1))).tokens
    drawn(fresh, ask("What is the total?", page()))
    with pytest.raises(MediaError):
        fresh.generate([{"role": "user", "content": [{"type": "image", "image": b"no image"}]}])
    with pytest.raises(PromptError):
        fresh.generate([])

    def fail(*_: Any) -> Iterator[None]:
        raise Failing

    with monkeypatch.context() as broken:
        broken.setattr(fresh.engine, part, fail)
        with pytest.raises(Failing):
            fresh.generate(ask("What is the date?", page(1)))
    assert drawn(fresh, ask("What is the date?", page(1))).tokens == expected


def test_an_error_between_chunks_leaves_a_true_prefix(
    fresh: Model, varied_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = ask("What is the date?", page(1))
    expected = prompt_logits(load(varied_path, threads=1), messages)
    drawn(fresh, ask("Another one entirely.", page()))
    forward, left = fresh.engine.forward, iter(range(3))

    def fail_later(inputs: Any) -> Any:
        if next(left, None) is None:
            raise Failing
        return forward(inputs)

    with monkeypatch.context() as broken:
        broken.setattr(generate, "PREFILL_CHUNK", 7)
        broken.setattr(fresh.engine, "forward", fail_later)
        with pytest.raises(Failing):
            prompt_logits(fresh, messages)
    assert np.abs(prompt_logits(fresh, messages) - expected).max() < PRECISE


def test_positions_continue_after_a_prompt(fresh: Model) -> None:
    """An image takes fewer positions than tokens; the first answer token follows the largest."""
    prompt: Prompt = fresh.prompt(ask("Read.", page()))
    assert prompt.next_position == prompt.positions.max() + 1 < len(prompt.ids)


def test_a_bundle_too_short_for_the_default_answer_says_so(fresh: Model) -> None:
    with pytest.raises(PromptError, match=r"lower --max-new-tokens"):
        fresh.generate(ask("Read."), max_new_tokens=fresh.manifest.llm.max_length)


def test_ignore_eos_generates_up_to_the_limit(reference_bundle: Path) -> None:
    reader = load(reference_bundle, threads=1)
    stream = reader.stream([{"role": "user", "content": "Read the text."}], max_new_tokens=40, ignore_eos=True)
    list(stream)
    assert len(stream.run.tokens) == 40


def test_memory_that_runs_out_while_the_cache_grows_breaks_no_later_answer(
    fresh: Model, varied_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short: Any = [{"role": "user", "content": "Hi"}]
    expected = fresh.generate(short, 4)
    copied, calls = cpu.ort.OrtValue.ortvalue_from_numpy, iter(range(99))

    def scarce(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError
        return copied(*arguments)

    monkeypatch.setattr(cpu.ort.OrtValue, "ortvalue_from_numpy", scarce)
    with pytest.raises(MemoryError):
        fresh.generate([{"role": "user", "content": "word " * 600}], 4)
    assert fresh.generate(short, 4) == expected


@pytest.mark.parametrize("answer", [np.array([1, 2]), [1, 2], (1, 2)])
def test_answers_to_force_are_any_ids(fresh: Model, answer: Any) -> None:
    assert len(fresh.logits([{"role": "user", "content": "Hi"}], answer)) == 2


@pytest.mark.parametrize("answer", [[], None, "", [1.5], ["a"], [-1], [1, 10**6], [[1]]])
def test_answers_that_are_none(fresh: Model, answer: Any) -> None:
    with pytest.raises(PromptError, match=r"the answer must be a text or ids from 0 to .*, got"):
        fresh.logits([{"role": "user", "content": "Hi"}], answer)
