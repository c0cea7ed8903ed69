"""A server under load for minutes: its memory, what it still holds at the end, and what a kill leaves behind.

    python -m tests.bench.serve_load [BUNDLE] [--seconds 180] [--clients 8] [--parallel 2] [--model-name NAME]

Clients on loopback ask about held-out pages and about pages of a PDF, one question after the other; every second client
leaves in the middle of its answer. By default the bundle is the reference checkpoint in fp16, exported here. Megabytes
are resident ones of the server's process; "warm" is the moment when a fifth of the time is over.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from qvl_export import export
from tests.heldout import HELDOUT
from tests.pdfs import text_pdf
from tests.plans import export_plan
from tests.processes import gone
from tests.serving import Server, serving

from .run_speed import cpu

REFERENCE = Path(__file__).parents[1] / "checkpoints" / "reference"
PAGES = 24
QUESTIONS = ("Read the text.", "What is the total?", "Locate the date.")
MOST_PIECES = 12
"""A client that leaves does so after one to this many events."""
WARM = 0.2
STEADY = 15
"""Readings, a tenth of a second apart, that have to be equal before a server counts as settled."""
Going = Callable[[int], bool]
"""Whether a client asks once more after so many questions."""


@dataclass
class Load:
    """What clients saw: answers and leavings by number, everything else as an error."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def run(self, server: Server, clients: int, going: Going) -> None:
        """Asks with so many clients until none of them goes on."""
        with ThreadPoolExecutor(clients) as pool, tempfile.TemporaryDirectory() as directory:
            parts = pages(Path(directory))
            for done in [pool.submit(self._client, server, number, parts, going) for number in range(clients)]:
                done.result()

    def _client(self, server: Server, number: int, parts: Sequence[dict[str, Any]], going: Going) -> None:
        draw = random.Random(number)
        with httpx.Client(timeout=300) as client:
            for asked in count():
                if not going(asked):
                    return
                content = [draw.choice(parts), {"type": "text", "text": draw.choice(QUESTIONS)}]
                pieces = draw.randint(1, MOST_PIECES) if number % 2 else None
                try:
                    self.counts[_ask(client, server, content, pieces)] += 1
                except (httpx.HTTPError, AssertionError) as error:
                    self.errors.append(f"{type(error).__name__}: {error}")


def _ask(client: httpx.Client, server: Server, content: list[dict[str, Any]], pieces: int | None) -> str:
    """Reads an answer, or leaves it after so many events; returns what happened."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "stream": True, "max_tokens": 160}
    with client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read().decode()[:200]
        for read, line in enumerate(filter(None, answer.iter_lines())):
            assert '"error"' not in line[:20], line[:200]
            if line == "data: [DONE]":
                return "answered"
            if pieces is not None and read + 1 >= pieces:
                return "left"
    raise AssertionError("the stream has no end")


def pages(directory: Path) -> list[dict[str, Any]]:
    """Parts of messages: held-out pages, and the two pages of a PDF."""
    images = [f"data:image/png;base64,{_base64(path)}" for path in sorted(HELDOUT.glob("*.png"))[:PAGES]]
    pdf = {"file_data": _base64(text_pdf(directory / "a.pdf", [["Total: 12"], ["Date: 34"]])), "filename": "a.pdf"}
    return [{"type": "image_url", "image_url": {"url": url}} for url in images] + [
        {"type": "file", "file": {**pdf, "pages": page}} for page in ("1", "2")
    ]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@dataclass(frozen=True)
class Held:
    """What a process holds: resident megabytes, threads, open files."""

    megabytes: float
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Held:
        status = Path(f"/proc/{pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return cls(int(values["VmRSS"].split()[0]) / 1024, int(values["Threads"]), files)


def settled(server: Server) -> Held:
    """Returns what a server holds once no request runs and its connections are closed."""
    server.wait_for_metric("qvl_requests_running 0.0")
    server.wait_for_metric("qvl_requests_waiting 0.0")
    readings = [Held.of(server.process.pid)]
    while len(readings) < STEADY or len({(held.threads, held.files) for held in readings[-STEADY:]}) > 1:
        assert len(readings) < 1000, readings[-STEADY:]
        time.sleep(0.1)
        readings.append(Held.of(server.process.pid))
    return readings[-1]


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found


def watched(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Loads a server for some time, and returns what happened and its memory over time."""
    load, began, samples = Load(), time.monotonic(), list[tuple[float, float]]()
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            samples.append((time.monotonic() - began, Held.of(server.process.pid).megabytes))

    watcher = threading.Thread(target=sample)
    watcher.start()
    load.run(server, clients, lambda _: time.monotonic() - began < seconds)
    over.set()
    watcher.join()
    warm = [megabytes for at, megabytes in samples if at >= WARM * seconds]
    places = range(0, len(samples), max(1, len(samples) // 10))
    slope = statistics.linear_regression(*zip(*[each for each in samples if each[0] >= WARM * seconds], strict=True))
    return {
        **load.counts,
        "errors": len(load.errors),
        "first_errors": load.errors[:3],
        "megabytes": {
            "warm": round(warm[0], 1),
            "most_after": round(max(warm), 1),
            "end": round(samples[-1][1], 1),
            "slope_per_minute": round(slope.slope * 60, 2),
            "over_time": [round(samples[place][1], 1) for place in places],
        },
    }


def killed(bundle: Path, server: Server, options: Sequence[str]) -> dict[str, Any]:
    """Kills a server that answers, and starts it again at its port; returns what was left and what it says then."""
    stop = threading.Event()
    load = threading.Thread(target=Load().run, args=(server, 4, lambda _: not stop.is_set()))
    load.start()
    server.wait_for_metric("qvl_requests_running 2.0")
    started = children(server.process.pid)
    stop.set()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    load.join()
    left = [pid for pid in started if not gone(pid)]
    with serving(bundle, *options, port=server.port) as again:
        status = again.post(max_tokens=2).status_code
        return {"children": len(started), "children_left": len(left), "status": status, "exit": again.end()}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--parallel", type=int, default=2)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        bundle = given.bundle or Path(directory) / "reference"
        if given.bundle is None:
            export(export_plan(REFERENCE, bundle, precision="fp16"))
        options = ("--parallel", str(given.parallel))
        with serving(bundle, *options) as server:
            Load().run(server, given.clients, lambda asked: asked < 2)
            before = settled(server)
            found = watched(server, given.clients, given.seconds)
            after = settled(server)
            found |= {"held_before": vars(before), "held_after": vars(after)}
            found["killed"] = killed(bundle, server, options)
    return {"cpu": cpu(), "seconds": given.seconds, "clients": given.clients, "parallel": given.parallel, **found}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
