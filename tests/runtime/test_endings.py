"""How answers end: by stop strings, their time, their caller, an interrupt; and the warnings about it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_runtime import TruncatedAnswerWarning
from qvl_runtime import __main__ as cli
from qvl_runtime.errors import EngineError, PromptError
from qvl_runtime.model import Model, load
from tests.alarms import interrupt_after

QUESTION = [{"role": "user", "content": "What is the total?"}]
OTHER = [{"role": "user", "content": "Who sent it?"}]
DRAWN = {"temperature": 1.3, "seed": 3}
"""Answers of random weights that are drawn have many different pieces."""


def slowed(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every call of the language graph takes a second of the clock; returns the tokens of each call."""
    forward, calls = model.engine.forward, []

    def slow(inputs: Any) -> Any:
        calls.append(len(inputs.ids))
        return forward(inputs)

    monkeypatch.setattr(model.engine, "forward", slow)
    monkeypatch.setattr("qvl_runtime.answers.generate.monotonic", lambda: float(len(calls)))
    return calls


def test_an_answer_ends_after_its_time(deep_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    text = deep_model.generate(QUESTION, 60, **DRAWN)
    slowed(deep_model, monkeypatch)
    stream = deep_model.stream(QUESTION, 60, timeout=7, **DRAWN)
    cut = "".join(stream)
    assert (stream.run.finish_reason, stream.run.counts.generated) == ("timeout", 7)
    assert text.startswith(cut) and cut
    with pytest.warns(TruncatedAnswerWarning, match=r"cut off by timeout=4\.5 after 5 tokens") as caught:
        deep_model.generate(QUESTION, 60, timeout=4.5, **DRAWN)
    assert [Path(str(warning.filename)) for warning in caught] == [Path(__file__)]


def test_time_may_be_over_within_the_prompt(deep_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    deep_model.clear()
    monkeypatch.setattr("qvl_runtime.answers.generate.PREFILL_CHUNK", 3)
    calls = slowed(deep_model, monkeypatch)
    stream = deep_model.stream(QUESTION, 60, timeout=2)
    assert list(stream) == []
    assert (stream.run.finish_reason, stream.run.tokens, calls) == ("timeout", [], [3, 3])
    monkeypatch.undo()
    fresh = load(deep_model.bundle, threads=1)
    assert deep_model.generate(QUESTION, 20) == fresh.generate(QUESTION, 20), "what was computed is a true prefix"


def test_a_schema_holds_when_time_is_over(deep_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(deep_model, monkeypatch)
    stream = deep_model.stream(QUESTION, 500, json_schema={"type": "array", "minItems": 60}, timeout=6)
    assert len(json.loads("".join(stream))) >= 60
    assert (stream.run.finish_reason, len(stream.run.tokens)) == ("timeout", 6)
    assert stream.run.forced


def test_what_a_failed_answer_says_of_its_end(deep_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    older = deep_model.stream(QUESTION, 20)
    next(older)
    deep_model.generate(OTHER, 2)
    with pytest.raises(PromptError):
        next(older)
    assert older.run.finish_reason == "error"


def test_closing_the_model_ends_its_streams_with_an_error(deep_path: Path) -> None:
    model = load(deep_path, threads=1)
    stream, unread = model.stream(QUESTION, 40, **DRAWN), model.stream(QUESTION, 40)
    next(stream)
    model.close()
    with pytest.raises(EngineError, match=r"the model was closed before this answer ended \(end or close\(\)"):
        list(stream)
    with pytest.raises(EngineError, match="the model is closed"):
        list(unread)
    assert (stream.run.finish_reason, unread.run.finish_reason) == ("error", "error")
    stream.close()


def test_an_interrupt_leaves_the_model_usable(deep_path: Path) -> None:
    """Ctrl+C at twenty different moments of an answer; afterwards everything is as in a new model."""
    model = load(deep_path, threads=1)
    page = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    about = [{"role": "user", "content": [{"type": "image", "image": page}, {"type": "text", "text": "Read."}]}]
    expected = [model.generate(question, 25) for question in (QUESTION, about)]
    began = time.perf_counter()
    model.generate(about, 200, **DRAWN)
    whole, hit = time.perf_counter() - began, 0
    for share in np.linspace(0.02, 0.95, 20):
        try:
            with interrupt_after(max(whole * share, 1e-4)):
                model.generate(about, 200, **DRAWN)
        except KeyboardInterrupt:
            hit += 1
        assert [model.generate(question, 25) for question in (QUESTION, about)] == expected
    assert hit


def test_an_interrupted_stream_is_cancelled(deep_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(deep_path, threads=1)
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


def test_an_interrupt_within_clear_leaves_the_model_usable(deep_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(deep_path, threads=1)
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


def test_generate_says_when_the_default_cuts_it(deep_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(deep_path, threads=1)
    monkeypatch.setattr("qvl_runtime.answers.options.MAX_NEW_TOKENS", 6)
    (line,) = warned(lambda: model.generate(QUESTION))
    assert line.startswith("the answer was cut off after 6 tokens, the default of max_new_tokens")
    assert warned(lambda: model.generate(QUESTION, max_new_tokens=6)) == [], "as requested"
    assert warned(lambda: "".join(model.stream(QUESTION))) == [], "its run says so"
    assert warned(lambda: model.generate(QUESTION, stop=model.generate(QUESTION, 6)[:2])) == []
    (line,) = warned(lambda: model.generate(QUESTION, 6, json_schema={"type": "array", "minItems": 9}))
    assert "after 6 tokens; '" in line and "was added to make it JSON" in line


@pytest.mark.parametrize("value", [True, 0, 1.5, np.float64(2), "2"], ids=repr)
def test_bad_threads(deep_path: Path, value: Any) -> None:
    with pytest.raises(PromptError, match="threads must be a whole number >= 1, got "):
        load(deep_path, threads=value)


def test_the_command_line(deep_path: Path, deep_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    whole = deep_model.generate(asked, 30, **DRAWN)
    stop = whole[5:8]
    run = ["run", str(deep_path), "--max-new-tokens", "30", "--temperature", "1.3", "--seed", "3"]
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
