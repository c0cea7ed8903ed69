"""A loaded model: its features, its threads, and what closing it frees."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qvl_runtime.errors import BundleError, EngineError, PromptError
from qvl_runtime.model import Model, load
from tests.conftest import Loader
from tests.runtime.test_generate import Calls, ask, drawn, page


def test_encode_gives_the_features_of_a_prompt(fresh: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    features = fresh.encode(page())
    prompt = fresh.prompt(ask("Read.", page()))
    assert features.shape == (prompt.placed[0].span.tokens, fresh.manifest.llm.hidden_size)
    assert np.isfinite(features).all()
    calls = Calls(fresh, monkeypatch)
    drawn(fresh, ask("Read.", page()))
    assert calls.images == 0


def test_threads_that_generate_take_turns(model: Loader) -> None:
    """One model, four threads, each with its own question: every answer equals the answer of a single thread."""
    shared = model("qwen2_5_vl", "deep", "fp32")
    questions = [[{"role": "user", "content": f"What is the {word}?"}] for word in ("total", "date", "name", "tax")]
    alone = [shared.generate(question, max_new_tokens=12) for question in questions]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(lambda q: shared.generate(q, max_new_tokens=12), questions)) == alone
    assert [shared.generate(question, max_new_tokens=12) for question in questions] == alone


def test_a_stream_of_another_thread_ends_with_an_error_not_with_a_wrong_answer(model: Loader) -> None:
    shared = model("qwen2_5_vl", "deep", "fp32")
    first = shared.stream([{"role": "user", "content": "What is the total?"}], max_new_tokens=8)
    next(first)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(shared.generate, [{"role": "user", "content": "Read the text."}], 4).result()
    with pytest.raises(PromptError, match="another prompt was started"):
        list(first)


def test_clear_forgets_and_close_ends(varied_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = ask("What is the total?", page())
    with load(varied_path, threads=1) as reader:
        expected = drawn(reader, question).tokens
        stream = reader.stream(question, max_new_tokens=4)
        next(stream)
        reader.clear()
        assert reader.engine.llm.cache.capacity == 0
        with pytest.raises(PromptError, match="or the model was cleared"):
            list(stream)
        calls = Calls(reader, monkeypatch)
        again = drawn(reader, question)
        assert (again.tokens, again.counts.reused, calls.images) == (expected, 0, 1)
        monkeypatch.undo()
    reader.close()  # twice is once
    for use in (lambda: reader.generate(question), lambda: reader.encode(page()), reader.clear):
        with pytest.raises(EngineError, match="the model is closed"):
            use()


def test_a_model_without_references_is_freed(varied_path: Path) -> None:
    """At once, without the garbage collector: a device has room for one."""
    gc.collect()
    gc.disable()
    try:
        model = load(varied_path, threads=1)
        model.generate([{"role": "user", "content": "Hi"}], 2)
        gone = weakref.ref(model.engine)
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_closed_model_frees_its_sessions(varied_path: Path) -> None:
    reader = load(varied_path, threads=1)
    session = weakref.ref(reader.engine.llm)
    drawn(reader, ask("Read."))
    reader.close()
    gc.collect()
    assert session() is None


@pytest.mark.parametrize("engine_fails", [False, True])
def test_a_damaged_tokenizer_is_reported_first_and_the_engine_is_closed(
    varied_path: Path, monkeypatch: pytest.MonkeyPatch, engine_fails: bool
) -> None:
    """Both are opened side by side."""
    closed = list[str]()

    class FakeEngine:
        def close(self) -> None:
            closed.append("engine")

    def open_engine(*_: object) -> FakeEngine:
        if engine_fails:
            raise BundleError("has a damaged graph", where=varied_path)
        return FakeEngine()

    def open_texts(*_: object) -> None:
        raise BundleError("is not a tokenizer", where=varied_path)

    monkeypatch.setattr("qvl_runtime.model.open_engine", open_engine)
    monkeypatch.setattr("qvl_runtime.model.open_texts", open_texts)
    with pytest.raises(BundleError, match="is not a tokenizer"):
        load(varied_path)
    assert closed == ([] if engine_fails else ["engine"])
