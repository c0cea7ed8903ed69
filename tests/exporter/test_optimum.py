"""`optimum-cli export qvl` is `qvl-export export`: run like a user would, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qvl_export
import qvl_runtime
from qvl_runtime.bundle import read_manifest

pytest.importorskip("optimum.commands.optimum_cli", reason="optimum is not installed: make setup")

ROOT = Path(__file__).parents[2]
Checkpoints = Callable[[str, str], Path]


def optimum(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Without `site` (-S) and other checkouts: Optimum would find the command in each of them."""
    program, here = "from optimum.commands.optimum_cli import main; main()", ROOT / "integrations/optimum/src"
    sources = [str(here), str(Path(qvl_export.__file__).parents[1]), str(Path(qvl_runtime.__file__).parents[1])]
    others = [path for path in filter(None, sys.path) if not (Path(path) / "optimum/commands/register").is_dir()]
    return subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", program, "export", "qvl", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sources, *others])},
        timeout=170,
    )


def test_it_exports(checkpoint: Checkpoints, tmp_path: Path) -> None:
    """Options before and behind the arguments reach the exporter."""
    done = optimum("--precision", "fp32", checkpoint("qwen2_vl", "small"), tmp_path / "out", "--max-length", 512)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "out").llm.max_length == 512
    assert read_manifest(tmp_path / "out").graphs["llm"].precision == "fp32"


def test_errors_are_one_line(tmp_path: Path) -> None:
    done = optimum("--quiet", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_help_is_ours() -> None:
    done = optimum("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: optimum-cli export qvl [OPTIONS] CHECKPOINT OUT")
    assert "--max-kl" in done.stdout
