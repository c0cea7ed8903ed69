"""Commands of npm in the package of the runtime for the web."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "runtimes" / "web"
MISSING = "the runtime for the web is not tested"


@pytest.fixture(scope="session")
def npm() -> str:
    """The command, if the package's dependencies are installed."""
    found = shutil.which("npm")
    if found is None or shutil.which("node") is None:
        pytest.skip(f"Node.js is not installed: {MISSING}")
    if not (PACKAGE / "node_modules").is_dir():
        pytest.skip(f"the package's dependencies are not installed: {MISSING} (make setup)")
    return found


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Runs a command in the package; its output, and all of it in the error if it fails."""

    def call(*command: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            command, cwd=PACKAGE, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=600
        )
        failed = re.findall(r"^not ok.*\n(?:  .*\n)*", done.stdout, re.MULTILINE)  # with what they say, behind it
        assert done.returncode == 0, "\n".join([*failed, done.stdout[-4000:], done.stderr[-2000:]])
        return done.stdout

    return call
