"""What every runner shares: its job, the clock, the memory of its process. Runs in a peer's own environment.

A runner is a script, started as `python run_NAME.py JOB`. JOB is a JSON object: `model` (a directory), `image`,
`warmup` (a small image), `text`, `tokens` to answer, `threads` and the peer's own `options`. The runner loads the
model, answers about the small image, and then times one answer about the image. Its last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

WARMUP_TOKENS = 4
SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Job:
    """What to measure."""

    model: str
    image: str
    warmup: str
    text: str
    tokens: int
    threads: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """One answer's figures: seconds from the start to the first token, split where the runtime says it.

    `tower` is the vision tower with what prepares the pixels, `prompt` the rest until the first token. `speed` is in
    tokens per second, without the first.
    """

    first: float
    speed: float
    prompt_tokens: int
    answer_tokens: int
    tower: float | None = None
    prompt: float | None = None
    pruned_tokens: int = 0


class Clock:
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.began, self.times = time.perf_counter(), list[float]()

    def token(self) -> None:
        self.times.append(time.perf_counter())

    @property
    def first(self) -> float:
        """Seconds until the first token."""
        return self.times[0] - self.began

    @property
    def speed(self) -> float:
        """Tokens per second, without the first."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else 0.0


def chat(media: str, text: str) -> str:
    """The prompt as the chat template writes it, `media` instead of the image."""
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{media}{text}<|im_end|>\n<|im_start|>assistant\n"


def peak_megabytes() -> float:
    """The most that this process ever held (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmHWM in /proc/self/status")


def steal() -> tuple[int, int]:
    """Ticks that the host took from this machine, and all ticks, since it was started."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def run(packages: Sequence[str], load: Callable[[Job], Callable[[str, str, int], Answer]]) -> None:
    """Measures the job on the command line; `load` returns a function of image, text and number of tokens."""
    job = Job(**json.loads(sys.argv[1]))
    began = time.perf_counter()
    answer = load(job)
    loaded = time.perf_counter() - began
    answer(job.warmup, "Warm up.", WARMUP_TOKENS)
    before = steal()
    found = answer(job.image, job.text, job.tokens)
    after = steal()
    if found.answer_tokens != job.tokens:
        raise SystemExit(f"{found.answer_tokens} tokens answered instead of {job.tokens}")
    result = asdict(found) | {
        "load": loaded,
        "peak_mb": peak_megabytes(),
        "stolen": (after[0] - before[0]) / max(after[1] - before[1], 1),
        "versions": {name: version(name) for name in packages},
    }
    print(json.dumps(result), flush=True)
