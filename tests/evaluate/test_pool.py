"""Processes that fail: one line for errors that the user can fix, a traceback for bugs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_export.errors import ExportError
from qvl_export.jobs.pool import JobCrashed, run_jobs
from tests.evaluate.broken_job import Job

ROOT = Path(__file__).parents[2]
MODULE = "tests.evaluate.broken_job"
BLAME = f"""
import sys
from qvl_export.cli.commands import cli, run
from qvl_export.evaluate.trace import blame
from tests.evaluate.broken_job import Job

blame.WORKER_MODULE, blame.TraceJob = "{MODULE}", lambda *_: Job("bug")
run(cli, sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def tests_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))


def end(how: str) -> None:
    run_jobs(MODULE, [Job(how)], lambda _: None)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("refused", "there: is wrong (mend it)"),
        ("missing", "/nowhere/missing: No such file or directory"),
        ("full", "No space left on device"),
        ("memory", "not enough memory"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line(how: str, said: str) -> None:
    with pytest.raises(ExportError) as error:
        end(how)
    assert str(error.value) == said


@pytest.mark.parametrize(("how", "said"), [("bug", "NameError: name 'undefined_name'"), ("anonymous", "of no file")])
def test_a_bug_has_its_traceback(how: str, said: str) -> None:
    with pytest.raises(JobCrashed, match=said) as error:
        end(how)
    assert "Traceback (most recent call last)" in str(error.value) and "broken_job.py" in str(error.value)


WAITING = f"""
import sys
from qvl_export.jobs.pool import run_jobs
from tests.evaluate.broken_job import Job
run_jobs("{MODULE}", [Job("waiting", sys.argv[1]), Job("waiting", sys.argv[1])], lambda _: None)
"""
"""Two processes that wait for their end."""


def eventually(found: Callable[[], object], seconds: float = 60) -> bool:
    """Whether something becomes true before long."""
    end = time.monotonic() + seconds
    while not found() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(found())


def running(id: str) -> bool:
    """Whether a process is there and at work."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{id}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("platform", ["posix", "windows"])
def test_processes_end_with_their_parent(tmp_path: Path, how: signal.Signals, platform: str) -> None:
    alike = [str(ROOT / "tests" / "oracles" / "without_posix")] if platform == "windows" else []
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([*alike, os.environ["PYTHONPATH"]])}
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)], stderr=subprocess.DEVNULL, env=settings
    ) as ours:
        assert eventually(lambda: len(os.listdir(tmp_path)) == 2)
        ids = os.listdir(tmp_path)
        assert all(map(running, ids))
        ours.send_signal(how)
    assert eventually(lambda: not any(map(running, ids)), 20)


def test_a_bug_is_not_reported_as_bad_input(reference_bundle: Path) -> None:
    page = ROOT / "calib_data" / "heldout" / "simple_0000.png"
    command = [sys.executable, "-c", BLAME, "blame", str(reference_bundle), str(reference_bundle), "--image", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " not in done.stderr
    assert "broken_job.py" in done.stderr and done.stderr.endswith("NameError: name 'undefined_name' is not defined\n")
