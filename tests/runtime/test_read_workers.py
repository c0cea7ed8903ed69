"""How the workers of one process end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime.model import load
from qvl_runtime.read import answer
from qvl_runtime.read.options import ReadOptions
from qvl_runtime.read.tasks import OpenPdfs, Task
from qvl_runtime.read.workers import local_workers

LONG = 400


@pytest.fixture
def page(tmp_path: Path) -> Task:
    path = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)).save(path)
    return Task("p.png", str(path), "image", 1, "aa")


def test_a_page_that_is_drawn_while_workers_end_is_not_answered(
    bundle: Callable[..., Path], page: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing, closing, original = threading.Event(), threading.Event(), answer.load_page

    def draw(*arguments: Any) -> Any:
        drawing.set()
        assert closing.wait(10)
        return original(*arguments)

    monkeypatch.setattr(answer, "load_page", draw)
    options = ReadOptions(prompt="Read.", settings={"max_new_tokens": LONG})
    with load(bundle("qwen2_5_vl", "deep", "fp32"), threads=1) as model:
        with local_workers(model, options, 1, OpenPdfs()) as workers:
            found = workers.submit(page)
            assert drawing.wait(10)
            stop = answer.Answerer.stop

            def stop_and_go_on(self: answer.Answerer) -> None:
                stop(self)
                closing.set()

            monkeypatch.setattr(answer.Answerer, "stop", stop_and_go_on)
        assert found.result(0)["error"] == "the answer was cancelled"


def test_an_answer_that_is_written_while_workers_end_is_cut(bundle: Callable[..., Path], page: Task) -> None:
    options = ReadOptions(prompt="Read.", settings={"max_new_tokens": LONG})
    with load(bundle("qwen2_5_vl", "deep", "fp32"), threads=1) as model:
        began, run = threading.Event(), model.decoder.generate

        def generate(*arguments: Any) -> Any:
            for token in run(*arguments):
                began.set()
                yield token

        with local_workers(model, options, 1, OpenPdfs()) as workers:
            model.decoder.generate = generate  # type: ignore[method-assign]
            found = workers.submit(page)
            assert began.wait(10)
        assert found.result(0)["error"] == "the answer was cancelled"
