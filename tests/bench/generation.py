"""Steps of an answer: how long one takes, and how much of it passes outside of the session, by way of sampling.

    python -m tests.bench.generation [--threads 2] [--rounds 3] [--bundle DIR]

A random int4 bundle in the shape of Qwen2-VL-2B with 8 decoder layers answers a short prompt (its logits are flat, the
slowest kind for `top_p`): first with its weights in small pages, then, in the same process, with them gathered in huge
pages. Ways take turns; figures are medians over all tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from qvl_runtime.common import huge_pages
from qvl_runtime.model import Model, load

from .known_tokens import full_size
from .run_speed import cpu

WAYS: Mapping[str, dict[str, Any]] = {
    "greedy": {},
    "top_p 0.9": {"temperature": 1.0, "top_p": 0.9, "seed": 1},
    "top_k 50": {"temperature": 1.0, "top_k": 50, "seed": 1},
    "temperature 1": {"temperature": 1.0, "seed": 1},
    "repetition_penalty": {"repetition_penalty": 1.1},
}
QUESTION = [{"role": "user", "content": [{"type": "text", "text": "Read the text. " * 20}]}]
WARM, TOKENS = 8, 40


class Timed:
    """A session that adds up the seconds of its runs."""

    def __init__(self, session: Any) -> None:
        self._run, self.seconds = session.run_with_iobinding, 0.0
        session.run_with_iobinding = self

    def __call__(self, *arguments: Any) -> None:
        began = time.perf_counter()
        self._run(*arguments)
        self.seconds += time.perf_counter() - began


def steps(model: Model, timed: Timed, way: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Of each token: seconds of its step, and of these the ones outside of the session."""
    found, latest = list[tuple[float, float]](), 0
    stream = model.stream(QUESTION, TOKENS + WARM, ignore_eos=True, **way)
    began, timed.seconds = time.perf_counter(), 0.0
    for _ in stream:
        now, count = time.perf_counter(), len(stream.run.tokens)
        if count == latest + 1 and count > WARM:  # a piece of one token
            found.append((now - began, now - began - timed.seconds))
        latest, began, timed.seconds = count, time.perf_counter(), 0.0
    return found


def measure(model: Model, timed: Timed, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, and microseconds outside of the session, by way."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            found[name] += steps(model, timed, way)
    return {
        name: {
            "step_ms": round(1e3 * statistics.median(whole for whole, _ in values), 2),
            "outside_us": round(1e6 * statistics.median(outside for _, outside in values)),
        }
        for name, values in found.items()
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", type=Path, help="instead of a random one")
    options = parser.parse_args(arguments)
    size = huge_pages.huge_page()
    with tempfile.TemporaryDirectory() as directory:
        bundle = options.bundle or full_size("int4", Path(directory))
        before = huge_pages.numbers(size, 0)
        with mock.patch.object(huge_pages, "huge_page", return_value=0):
            model = load(bundle, options.threads)
        timed = Timed(model.engine.llm.sessions[-1])  # type: ignore[attr-defined]
        found: dict[str, Any] = {"cpu": cpu(), "small pages": measure(model, timed, options.rounds)}
        if size:
            began, pages = time.perf_counter(), huge_pages.numbers(size, huge_pages.FILLED) - before
            with mock.patch.object(huge_pages, "REST", 0):
                found["gathered_mb"] = huge_pages.gather(size, pages) / 1e6
            found["gathering_s"] = round(time.perf_counter() - began, 2)
            found["huge pages"] = measure(model, timed, options.rounds)
    return found


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
