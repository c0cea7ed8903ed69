"""Prepares peers, and measures them in turns: one round after the other, medians of all."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..run_speed import cpu
from . import llama_cpp, mnn, onnxruntime_genai, openvino_genai, ours, torch_transformers
from .peer import Peer, Setting, measure
from .venvs import PeerUnavailable

PEERS: tuple[Peer, ...] = tuple(
    peer
    for module in (ours, llama_cpp, openvino_genai, onnxruntime_genai, mnn, torch_transformers)
    for peer in module.PEERS
)
FIGURES = ("first", "tower", "prompt", "speed", "peak_mb", "load", "stolen", "load_average")
Say = Callable[[str], None]


@dataclass
class Ready:
    """A prepared peer, and its runs; `reason` says why it has none."""

    peer: Peer
    python: Path
    model: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""


def environment(peer: Peer, cache: Path, own: Path, install: bool) -> Path:
    """The Python that runs the peer, `own` for this project; raises PeerUnavailable."""
    if peer.venv is None:
        return own
    return peer.venv.build(cache) if install else peer.venv.require(cache)


def prepared(peer: Peer, checkpoint: Path, models: Path, python: Path) -> Path:
    """The peer's model, made once; raises PeerUnavailable, with nothing half-written left."""
    out = models / peer.directory
    if out.exists():
        return out
    models.mkdir(parents=True, exist_ok=True)
    partial = models / f"{peer.directory}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    peer.prepare(peer, checkpoint, partial, python)
    partial.rename(out)
    return out


def ready(
    peers: Sequence[Peer], checkpoint: Path, models: Path, cache: Path, own: Path, install: bool, say: Say
) -> list[Ready]:
    """All peers, installed and prepared as far as that is possible."""
    found, python = [], own
    for peer in peers:
        entry = Ready(peer, python, models)
        try:
            say(f"preparing {peer.name}")
            entry.python = environment(peer, cache, own, install)
            entry.model = prepared(peer, checkpoint, models, entry.python)
        except PeerUnavailable as error:
            entry.reason = str(error)
            say(f"{peer.name}: {error}")
        found.append(entry)
    return found


def take_turns(
    entries: Sequence[Ready], setting: Setting, rounds: int, before: Sequence[str], say: Say
) -> Iterator[int]:
    """Measures every peer once a round, and yields the round; one that fails is left out from then on."""
    for number in range(1, rounds + 1):
        for entry in entries:
            if entry.reason:
                continue
            try:
                entry.runs.append(measure(entry.peer, entry.python, entry.model, setting, before))
            except PeerUnavailable as error:
                entry.reason = str(error)
                say(f"{entry.peer.name}: {error}")
            else:
                say(f"{number}/{rounds} {entry.peer.name}: {short(entry.runs[-1])}")
        yield number


def short(run: dict[str, Any]) -> str:
    tower, rest = run["tower"], run["prompt"]
    split = f" ({tower:.1f} + {rest:.1f})" if tower is not None else ""
    return f"{run['first']:.2f} s{split}, {run['speed']:.1f} tokens/s, {run['peak_mb']:.0f} MB"


def row(entry: Ready) -> dict[str, Any]:
    """A line of results.json: medians and all runs, or the reason."""
    peer = entry.peer
    result: dict[str, Any] = {
        "name": peer.name,
        "runtime": peer.runtime,
        "precision": peer.precision,
        "ours": peer.ours,
        "prune": peer.options.get("prune"),
        "page": peer.page,
    }
    if not entry.runs:
        return result | {"reason": entry.reason}
    last = entry.runs[-1]
    counts = {name: last[name] for name in ("prompt_tokens", "answer_tokens", "pruned_tokens", "versions")}
    return (
        result | counts | {name: middle([run[name] for run in entry.runs]) for name in FIGURES} | {"runs": entry.runs}
    )


def middle(values: Sequence[float | None]) -> float | None:
    """The median to four digits, None if there is none."""
    known = [value for value in values if value is not None]
    return float(f"{statistics.median(known):.4g}") if known else None


def machine() -> dict[str, Any]:
    """The processor, its cores and memory, the system and the date."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{cpu()}{generation()}",
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "system": platform.platform(aliased=True, terse=True),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def generation() -> str:
    """Family and model of an x86 processor, whose name alone says little."""
    path = Path("/proc/cpuinfo")
    fields = (line.partition(":") for line in path.read_text().splitlines()) if path.exists() else ()
    found = {name.strip(): value.strip() for name, _, value in fields}
    return f", family {found['cpu family']} model {found['model']}" if "cpu family" in found else ""


def save(results: dict[str, Any], out: Path) -> None:
    """Writes results.json, never half."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(out / "results.json")
