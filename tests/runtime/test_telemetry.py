"""ONNX Runtime's telemetry touches no file and no variable of the user, in any order of imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qvl_runtime.common.telemetry import VARIABLE

pytestmark = pytest.mark.slow

ANSWER = """
import sys
from qvl_runtime import load
with load(sys.argv[1], threads=1) as model:
    assert isinstance(model.generate([{"role": "user", "content": "Read."}], max_new_tokens=2), str)
"""
LATER = "import qvl_runtime, onnxruntime\n" + ANSWER
EARLIER = "import onnxruntime\n" + ANSWER
CALLED = """
import sys, types
calls, fake = [], types.ModuleType("onnxruntime")
fake.InferenceSession, fake.disable_telemetry_events = object, lambda: calls.append(1)
sys.modules["onnxruntime"] = fake
import qvl_runtime._onnxruntime.library, os
print(len(calls), os.environ["ORT_DISABLE_TELEMETRY"])
"""
# On a build server ONNX Runtime 1.32 writes nothing: the tests would show nothing. These names stand in its library.
BUILD_SERVERS = frozenset(
    ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID", "BUILDKITE"]
    + ["TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER", "TF_BUILD"]
)
VALUE = "import {module}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"


def run(home: Path, code: str, *arguments: object, **variables: str) -> str:
    """In a process whose writable directories are all below `home`, as on a user's machine."""
    unset = {VARIABLE} | BUILD_SERVERS
    environment = {key: value for key, value in os.environ.items() if key not in unset} | variables
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        (home / variable).mkdir(parents=True, exist_ok=True)
        environment[variable] = str(home / variable)
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(home: Path) -> list[Path]:
    """All but what the runtime keeps in the user's cache: which templates and tokenizers it has tried out."""
    own = home / "XDG_CACHE_HOME" / "qvl-runtime" / "vetted"
    return [path for path in home.rglob("*") if not path.is_dir() and own not in path.parents]


@pytest.fixture(scope="module")
def small(bundle: Any) -> Path:
    found: Path = bundle("qwen2_5_vl", "small", "fp16")
    return found


@pytest.mark.parametrize("code", [ANSWER, LATER], ids=["ours alone", "ours, then theirs"])
def test_an_answer_leaves_no_file(code: str, small: Path, tmp_path: Path) -> None:
    run(tmp_path, code, small)
    assert not files(tmp_path)


def test_the_first_import_sets_the_variable(small: Path, tmp_path: Path) -> None:
    """As the README says; without it, files appear on import, and this test sees them."""
    run(tmp_path / "set", EARLIER, small, **{VARIABLE: "1"})
    assert not files(tmp_path / "set")
    if sys.platform == "linux":
        run(tmp_path / "unset", EARLIER, small)
        assert files(tmp_path / "unset"), "no telemetry any more: the other tests of this file show nothing"


@pytest.mark.parametrize(("own", "calls", "value"), [(None, 1, "1"), ("1", 0, "1"), ("0", 0, "0")])
def test_an_imported_module_is_switched_off(own: str | None, calls: int, value: str, tmp_path: Path) -> None:
    """Unless the user has decided; children get the variable in any case."""
    assert run(tmp_path, CALLED, **({} if own is None else {VARIABLE: own})) == f"{calls} {value}\n"


@pytest.mark.parametrize(
    "module", ["qvl_runtime", "qvl_export", "qvl_export.jobs.ray_cluster", "qvl_export.quant.calibration.cluster"]
)
def test_every_process_of_ours_sets_it_and_a_value_of_the_users_stays(module: str, tmp_path: Path) -> None:
    """Commands, jobs, and what runs jobs on a Ray cluster."""
    code = VALUE.format(module=module)
    assert run(tmp_path, code) == "1\n"
    assert run(tmp_path, code, **{VARIABLE: "0"}) == "0\n"


def test_the_processes_of_the_tests_have_it() -> None:
    assert os.environ[VARIABLE] == "1"


def test_a_calibrated_export_leaves_no_file(checkpoint: Any, tmp_path: Path) -> None:
    code = "import sys; from qvl_export.cli.main import main; sys.argv[0] = 'qvl-export'; main()"
    plan = ("export", checkpoint("qwen2_5_vl", "small"), tmp_path / "out", "--precision", "int8", "--samples", "1")
    run(tmp_path / "home", code, *plan, "--quiet")
    assert not files(tmp_path / "home")
