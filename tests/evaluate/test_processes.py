"""What becomes of a process that fails: one line for what its user can mend, a traceback for a bug of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvl_export.errors import ExportError
from qvl_export.processes import BrokenJob, run_jobs
from tests.evaluate.broken_job import Job

ROOT = Path(__file__).parents[2]
MODULE = "tests.evaluate.broken_job"
BLAME = f"""
import sys
from qvl_export.cli import cli, run
from qvl_export.evaluate import blame
from tests.evaluate.broken_job import Job

blame.TAPPING, blame.TapJob = "{MODULE}", lambda *_: Job("bug")
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
def test_what_can_be_mended_is_one_line(how: str, said: str) -> None:
    with pytest.raises(ExportError) as error:
        end(how)
    assert str(error.value) == said


@pytest.mark.parametrize(("how", "said"), [("bug", "NameError: name 'undefined_name'"), ("anonymous", "of no file")])
def test_a_bug_has_its_traceback(how: str, said: str) -> None:
    with pytest.raises(BrokenJob, match=said) as error:
        end(how)
    assert "Traceback (most recent call last)" in str(error.value) and "broken_job.py" in str(error.value)


def test_a_bug_is_no_bad_input(reference_bundle: Path) -> None:
    page = ROOT / "calib_data" / "heldout" / "simple_0000.png"
    command = [sys.executable, "-c", BLAME, "blame", str(reference_bundle), str(reference_bundle), "--image", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " not in done.stderr
    assert "broken_job.py" in done.stderr and done.stderr.endswith("NameError: name 'undefined_name' is not defined\n")
