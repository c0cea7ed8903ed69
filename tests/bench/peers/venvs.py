"""Virtual environments of peers: made once below a cache directory, and again if what they hold changes.

A build that was interrupted is gone on with: pip finds what it has installed. Builds run at low priority.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

STAMP = "installed.json"
LOG = "install.log"
NICE = 10
TORCH = ("torch==2.13.0",)
"""Installed first, so that nothing brings another build (see the Makefile)."""


class PeerUnavailable(Exception):
    """A peer that cannot be installed, prepared or run here; the message is the reason in one line."""


@dataclass(frozen=True)
class Venv:
    """An environment: the arguments of one `pip install` after another, and variables for their builds.

    `finish` builds what pip cannot, in the environment's directory with its Python; it must be resumable.
    """

    name: str
    installs: tuple[tuple[str, ...], ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    finish: Callable[[Path, Path, TextIO], None] | None = None

    def python(self, cache: Path) -> Path:
        return cache / "venvs" / self.name / "bin" / "python"

    def is_complete(self, cache: Path) -> bool:
        """Whether it was built for these very installs."""
        stamp = cache / "venvs" / self.name / STAMP
        return stamp.is_file() and json.loads(stamp.read_text()) == self._contents()

    def build(self, cache: Path) -> Path:
        """Returns its Python, built if need be; raises PeerUnavailable with pip's last line."""
        directory = cache / "venvs" / self.name
        if self.is_complete(cache):
            return self.python(cache)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / LOG).open("w") as log:
            if not self.python(cache).exists():
                run([sys.executable, "-m", "venv", str(directory)], log)
            for arguments in self.installs:
                command = [str(self.python(cache)), "-m", "pip", "install", *arguments]
                run(command, log, self.variables)
            if self.finish is not None:
                self.finish(directory, self.python(cache), log)
        (directory / STAMP).write_text(json.dumps(self._contents()))
        return self.python(cache)

    def require(self, cache: Path) -> Path:
        """Returns its Python; raises PeerUnavailable if it was not built."""
        if not self.is_complete(cache):
            raise PeerUnavailable(f"{self.name}: no environment in {cache}; run `make bench-peers` to build it")
        return self.python(cache)

    def _contents(self) -> dict[str, object]:
        return {"installs": [list(each) for each in self.installs], "variables": dict(self.variables)}


def run(command: list[str], log: TextIO, variables: Mapping[str, str] | None = None) -> None:
    """Runs a step of a build at low priority, its output in the log; raises PeerUnavailable if it fails."""
    niced = [*(["nice", "-n", str(NICE)] if shutil.which("nice") else []), *command]
    everything = {**os.environ, **(variables or {})}
    done = subprocess.run(niced, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=everything)
    print(*niced, done.stdout, sep="\n", file=log, flush=True)
    if done.returncode:
        raise PeerUnavailable(reason(done.stdout) or f"{command[0]} failed with exit status {done.returncode}")


def reason(output: str) -> str:
    """The line of a failed program's output that says why: its last error, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and not line.startswith("note:")]
    return (errors or lines or [""])[-1][:200]
