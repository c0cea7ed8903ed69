"""How answers end: by stop strings, their time, their caller, an interrupt; and the warnings about it."""

from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime import TruncatedAnswerWarning
from qvl_runtime import __main__ as cli
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.sampling import Sampling
from qvl_runtime.answers.stop_strings import StopStrings
from qvl_runtime.answers.stream import Stream
from qvl_runtime.errors import EngineError, PromptError
from qvl_runtime.model import Model, load

QUESTION = [{"role": "user", "content": "What is the total?"}]
OTHER = [{"role": "user", "content": "Who sent it?"}]
DRAWN = {"temperature": 1.3, "seed": 3}
"""Answers of random weights that are drawn have many different pieces."""


@pytest.fixture(scope="module")
def path(bundle: Any) -> Path:
    return bundle("qwen2_5_vl", "deep", "fp32")


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return load(path, threads=1)


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
def test_an_answer_ends_before_its_stop_string(model: Model, stop: Any, shown: str, found: str | None) -> None:
    stream = scripted(model, "Total: 发票 12\n\nEnd.", (stop,) if isinstance(stop, str) else stop)
    assert "".join(stream) == shown
    assert (stream.run.stop_string, stream.run.finish_reason) == (found, "stop" if found else "length")
    assert found is None or len(stream.run.tokens) <= len(model.token_ids("Total: 发票 12\n\nEnd."))


def test_generate_and_stream_stop(model: Model) -> None:
    whole = model.generate(QUESTION, 40, **DRAWN)
    stop = whole[9:12]
    cut = whole[: whole.index(stop)]
    assert model.generate(QUESTION, 40, stop=stop, **DRAWN) == cut
    stream = model.stream(QUESTION, 40, stop=["never ever", stop], **DRAWN)
    assert "".join(stream) == cut
    assert (stream.run.finish_reason, stream.run.stop_string) == ("stop", stop)
    assert stream.run.counts.generated == len(stream.run.tokens) < 40
    assert model.generate(QUESTION, 40, **DRAWN) == whole, "the model is as it was"


@pytest.mark.parametrize("stop", ["", [""], ["a", 3], 5, {"a"}, b"x"], ids=repr)
def test_bad_stop_strings(model: Model, stop: Any) -> None:
    with pytest.raises(PromptError, match="stop must be "):
        model.stream(QUESTION, stop=stop)


def test_a_schema_goes_with_no_stop_string(model: Model) -> None:
    with pytest.raises(PromptError, match="stop and json_schema cannot be combined"):
        model.generate(QUESTION, json_schema={}, stop="x")


def slowed(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every call of the language graph takes a second of the clock; returns the tokens of each call."""
    forward, calls = model.engine.forward, []

    def slow(inputs: Any) -> Any:
        calls.append(len(inputs.ids))
        return forward(inputs)

    monkeypatch.setattr(model.engine, "forward", slow)
    monkeypatch.setattr("qvl_runtime.answers.generate.monotonic", lambda: float(len(calls)))
    return calls


def test_an_answer_ends_after_its_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    text = model.generate(QUESTION, 60, **DRAWN)
    slowed(model, monkeypatch)
    stream = model.stream(QUESTION, 60, timeout=7, **DRAWN)
    cut = "".join(stream)
    assert (stream.run.finish_reason, stream.run.counts.generated) == ("timeout", 7)
    assert text.startswith(cut) and cut
    with pytest.warns(TruncatedAnswerWarning, match=r"cut off by timeout=4\.5 after 5 tokens") as caught:
        model.generate(QUESTION, 60, timeout=4.5, **DRAWN)
    assert [Path(str(warning.filename)) for warning in caught] == [Path(__file__)]


def test_time_may_be_over_within_the_prompt(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.clear()
    monkeypatch.setattr("qvl_runtime.answers.generate.PREFILL_CHUNK", 3)
    calls = slowed(model, monkeypatch)
    stream = model.stream(QUESTION, 60, timeout=2)
    assert list(stream) == []
    assert (stream.run.finish_reason, stream.run.tokens, calls) == ("timeout", [], [3, 3])
    monkeypatch.undo()
    fresh = load(model.bundle, threads=1)
    assert model.generate(QUESTION, 20) == fresh.generate(QUESTION, 20), "what was computed is a true prefix"


def test_a_schema_holds_when_time_is_over(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(model, monkeypatch)
    stream = model.stream(QUESTION, 500, json_schema={"type": "array", "minItems": 60}, timeout=6)
    assert len(json.loads("".join(stream))) >= 60
    assert (stream.run.finish_reason, len(stream.run.tokens)) == ("timeout", 6)
    assert stream.run.forced


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True])
def test_bad_timeouts(model: Model, timeout: Any) -> None:
    with pytest.raises(PromptError, match="timeout must be "):
        model.generate(QUESTION, timeout=timeout)


def test_streams_can_be_closed(model: Model) -> None:
    expected = model.generate(OTHER, 12)
    with model.stream(QUESTION, 40, **DRAWN) as stream:
        first = next(stream)
        assert (bool(first), stream.run.finish_reason) == (True, None)
    assert stream.run.finish_reason == "cancelled"
    assert list(stream) == []
    stream.close()
    assert model.generate(OTHER, 12) == expected
    never = model.stream(QUESTION, 40)
    never.close()
    assert (list(never), never.run.finish_reason, never.run.tokens) == ([], "cancelled", [])
    done = model.stream(QUESTION, 3)
    list(done)
    done.close()
    assert done.run.finish_reason == "length"


def test_an_abandoned_stream_is_cancelled(model: Model) -> None:
    stream = model.stream(QUESTION, 40, **DRAWN)
    next(stream)
    run = stream.run
    assert run.finish_reason is None
    del stream
    assert run.finish_reason == "cancelled"


def test_a_schema_is_not_closed_where_the_stream_is(model: Model) -> None:
    stream = model.stream(QUESTION, 200, json_schema={"type": "array", "minItems": 50})
    text = next(stream)
    stream.close()
    assert (text + "".join(stream)).startswith("[") and not stream.run.forced
    assert stream.run.finish_reason == "cancelled"


def test_a_stream_that_is_being_closed_is_at_its_end(model: Model) -> None:
    """Also for a reader in another thread."""
    closing, go_on = threading.Event(), threading.Event()

    def tokens() -> Iterator[int]:
        try:
            yield from model.token_ids("Paid in full.")
        finally:
            closing.set()
            go_on.wait(20)

    stream = Stream(tokens(), model.tokenizer, GenerationStats())
    assert next(stream)
    closer = threading.Thread(target=stream.close)
    closer.start()
    assert closing.wait(20)
    threading.Timer(0.2, go_on.set).start()
    assert list(stream) == []
    closer.join()
    assert stream.run.finish_reason == "cancelled"


def test_a_stream_is_closed_from_another_thread(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread waits for a token."""
    forward, in_call, closed = model.engine.forward, threading.Event(), threading.Event()

    def waiting(inputs: Any) -> Any:
        if stream.run.tokens:
            in_call.set()
            closed.wait(20)
        return forward(inputs)

    monkeypatch.setattr(model.engine, "forward", waiting)
    stream, got = model.stream(QUESTION, 400, **DRAWN), []
    reader = threading.Thread(target=lambda: got.extend(stream))
    reader.start()
    assert in_call.wait(20)
    stream.close()
    assert stream.run.finish_reason is None, "it still waits"
    closed.set()
    reader.join(20)
    assert not reader.is_alive()
    assert (stream.run.finish_reason, len(stream.run.tokens)) == ("cancelled", 2)


def test_what_a_failed_answer_says_of_its_end(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    older = model.stream(QUESTION, 20)
    next(older)
    model.generate(OTHER, 2)
    with pytest.raises(PromptError):
        next(older)
    assert older.run.finish_reason == "error"


def test_closing_the_model_ends_its_streams_with_an_error(path: Path) -> None:
    model = load(path, threads=1)
    stream, unread = model.stream(QUESTION, 40, **DRAWN), model.stream(QUESTION, 40)
    next(stream)
    model.close()
    with pytest.raises(EngineError, match=r"the model was closed before this answer ended \(end or close\(\)"):
        list(stream)
    with pytest.raises(EngineError, match="the model is closed"):
        list(unread)
    assert (stream.run.finish_reason, unread.run.finish_reason) == ("error", "error")
    stream.close()


def test_an_interrupt_leaves_the_model_usable(path: Path) -> None:
    """Ctrl+C at twenty different moments of an answer; afterwards everything is as in a new model."""
    model = load(path, threads=1)
    page = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    about = [{"role": "user", "content": [{"type": "image", "image": page}, {"type": "text", "text": "Read."}]}]
    expected = [model.generate(question, 25) for question in (QUESTION, about)]
    began = time.perf_counter()
    model.generate(about, 200, **DRAWN)
    whole, hit = time.perf_counter() - began, 0

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for share in np.linspace(0.02, 0.95, 20):
            signal.setitimer(signal.ITIMER_REAL, max(whole * share, 1e-4))
            try:
                model.generate(about, 200, **DRAWN)
            except KeyboardInterrupt:
                hit += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert [model.generate(question, 25) for question in (QUESTION, about)] == expected
    finally:
        signal.signal(signal.SIGALRM, before)
    assert hit


def test_an_interrupted_stream_is_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(path, threads=1)
    expected = model.generate(OTHER, 12)
    forward, left = model.engine.forward, iter(range(4))

    def interrupted(inputs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return forward(inputs)

    stream = model.stream(QUESTION, 40, **DRAWN)
    with monkeypatch.context() as patch:
        patch.setattr(model.engine, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    assert stream.run.finish_reason == "cancelled" and len(stream.run.tokens) == 4
    assert model.generate(OTHER, 12) == expected


def test_an_interrupt_within_clear_leaves_the_model_usable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(path, threads=1)
    expected = model.generate(QUESTION, 12)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qvl_runtime.sessions.cpu.KvCache", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.clear()
    assert model.generate(QUESTION, 12) == expected


def warned(answer: Callable[[], str]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer()
    return [str(warning.message) for warning in caught if warning.category is TruncatedAnswerWarning]


def test_generate_says_when_the_default_cuts_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(path, threads=1)
    monkeypatch.setattr("qvl_runtime.answers.options.MAX_NEW_TOKENS", 6)
    (line,) = warned(lambda: model.generate(QUESTION))
    assert line.startswith("the answer was cut off after 6 tokens, the default of max_new_tokens")
    assert warned(lambda: model.generate(QUESTION, max_new_tokens=6)) == [], "as requested"
    assert warned(lambda: "".join(model.stream(QUESTION))) == [], "its run says so"
    assert warned(lambda: model.generate(QUESTION, stop=model.generate(QUESTION, 6)[:2])) == []
    (line,) = warned(lambda: model.generate(QUESTION, 6, json_schema={"type": "array", "minItems": 9}))
    assert "after 6 tokens; '" in line and "was added to make it JSON" in line


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


def test_numbers_of_numpy_are_numbers(model: Model, path: Path) -> None:
    plain = {name: value.item() for name, value in NUMPY.items()}
    assert model.generate(QUESTION, **NUMPY) == model.generate(QUESTION, **plain)
    assert load(path, threads=np.int64(1)).generate(QUESTION, 3) == model.generate(QUESTION, 3)
    assert Sampling(np.float32(1), seed=np.int64(2)) == Sampling(1.0, seed=2)


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_p", "top_k", "seed", "timeout"])
@pytest.mark.parametrize("value", [True, np.bool_(True), np.float64("nan"), [1], "1"], ids=repr)
def test_what_is_not_a_number_is_refused(model: Model, name: str, value: Any) -> None:
    with pytest.raises(PromptError, match=f"{name} must be ") as caught:
        model.generate(QUESTION, **{"max_new_tokens": 3, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_k", "seed", "repetition_penalty", "timeout"])
@pytest.mark.parametrize("value", [-(10**400), -(10**5000)], ids=["beyond floats", "beyond what Python writes"])
def test_numbers_of_any_length_are_refused(model: Model, name: str, value: int) -> None:
    with pytest.raises(PromptError, match=f"{name} must be "):
        model.generate(QUESTION, **{"max_new_tokens": 3, name: value})


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty", "timeout"])
def test_numbers_beyond_all_floats_are_refused(model: Model, name: str) -> None:
    with pytest.raises(PromptError, match=f"{name} must be a finite number .* got 1000"):
        model.generate(QUESTION, **{"max_new_tokens": 3, name: 10**400})


def test_other_options_quote_numbers_of_any_length(model: Model) -> None:
    with pytest.raises(PromptError, match=r"stop must be .* got a number of thousands of digits"):
        model.generate(QUESTION, 3, stop=10**5000)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"the answer must be .* got a number of thousands of digits"):
        model.logits(QUESTION, [10**5000])


@pytest.mark.parametrize("value", [True, 0, 1.5, np.float64(2), "2"], ids=repr)
def test_bad_threads(path: Path, value: Any) -> None:
    with pytest.raises(PromptError, match="threads must be a whole number >= 1, got "):
        load(path, threads=value)


def test_the_command_line(path: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    whole = model.generate(asked, 30, **DRAWN)
    stop = whole[5:8]
    run = ["run", str(path), "--max-new-tokens", "30", "--temperature", "1.3", "--seed", "3"]
    assert cli.main([*run, "--stop", "never", "--stop", stop, "Hi"]) == 0
    out = capsys.readouterr()
    assert (out.out, out.err) == (whole[: whole.index(stop)] + "\n", "")
    assert cli.main([*run, "--stop", stop, "--json", "Hi"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["finish_reason"], found["stop_string"]) == ("stop", stop)
    assert cli.main([*run, "--timeout", "1e-6", "Hi"]) == 0
    out = capsys.readouterr()
    assert (out.out, out.err) == ("\n", "note: the answer was cut off, see --timeout\n")
    for option in (["--timeout", "0"], ["--timeout", "nan"], ["--stop", ""], ["--temperature", "nan"]):
        assert cli.main([*run, *option, "Hi"]) == 2
        out = capsys.readouterr()
        assert (out.out, out.err.count("\n")) == ("", 1)
