"""A peer: what it is, how a checkpoint is made ready for it, and one measured run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .venvs import PeerUnavailable, Venv, reason

RUNNERS = Path(__file__).parent / "runners"
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables of the caller that would slow a peer down; each runner sets its own threads."""
Prepare = Callable[["Peer", Path, Path, Path], None]
"""Writes the model of (peer, checkpoint, output directory, Python of its environment)."""


@dataclass(frozen=True)
class Peer:
    """One line of the table: a runtime at a precision.

    `model` names the prepared directory; peers that share it are prepared once. `page` is the page that it reads.
    """

    runtime: str
    precision: str
    runner: str
    prepare: Prepare
    venv: Venv | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    page: str = "scan"
    ours: bool = False

    @property
    def name(self) -> str:
        prune = self.options.get("prune")
        return f"{self.runtime} {self.precision}" + (f", prune {prune}, {self.page} page" if prune else "")

    @property
    def directory(self) -> str:
        """The prepared model's name below the cache."""
        return self.model or f"{self.runtime}-{self.precision}".replace(" ", "-").lower()


@dataclass(frozen=True)
class Setting:
    """What all peers are asked."""

    pages: Mapping[str, Path]
    warmup: Path
    text: str
    tokens: int
    threads: int
    timeout: float = 3600.0


def job(peer: Peer, model: Path, setting: Setting) -> dict[str, Any]:
    """The job that the peer's runner gets, see `runners/measuring.py`."""
    return {
        "model": str(model),
        "image": str(setting.pages[peer.page]),
        "warmup": str(setting.warmup),
        "text": setting.text,
        "tokens": setting.tokens,
        "threads": setting.threads,
        "options": dict(peer.options),
    }


def measure(peer: Peer, python: Path, model: Path, setting: Setting, before: Sequence[str] = ()) -> dict[str, Any]:
    """One run in a process of its own; `before` is put in front of the command.

    Raises PeerUnavailable with the reason if it fails.
    """
    variables = {name: value for name, value in os.environ.items() if name not in LIMITS}
    command = [*before, str(python), str(RUNNERS / peer.runner), json.dumps(job(peer, model, setting))]
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=setting.timeout)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"it took more than {setting.timeout:.0f} s") from error
    if done.returncode:
        raise PeerUnavailable(reason(done.stderr) or f"it ended with exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"load_average": load}
