"""What other platforms lack or refuse, taken away on this one: see `oracles/without_posix`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import pytest

from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.common.portable_paths import is_plain
from qvl_export.errors import CheckpointError
from qvl_runtime.bundle import inside
from qvl_runtime.errors import BundleError
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from qvl_export.cli.main import main; sys.argv[0] = 'qvl-export'; main()"
IMPORTS = """
import importlib, pkgutil, os, sys
for name in ("fcntl", "resource"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    sys.exit(f"{name} is there")
assert not hasattr(os, "fork") and not hasattr(os, "sched_getaffinity")
OPTIONAL = ("tensorrt", "optimum", "cuda", "hf", "ray_pool", "__main__")
import qvl_export, qvl_runtime
for package in (qvl_export, qvl_runtime):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not any(part.startswith(OPTIONAL) for part in found.name.split(".")):
            importlib.import_module(found.name)
"""


def without_posix(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A command of Python in a process, and those that it starts, which have none of POSIX."""
    paths = [str(ROOT / "tests" / "oracles" / "without_posix"), str(ROOT), *sys.path]
    cache = tempfile.gettempdir()  # platformdirs would ask `sys.platform`, which stays as it is, and want `os.getuid`
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
    settings = {**os.environ, **found, **more}
    arguments = [sys.executable, "-c", *map(str, command)]
    return subprocess.run(arguments, env=settings, capture_output=True, text=True, encoding="utf-8", errors="replace")


def done(*arguments: object) -> str:
    """What a command of the program prints; it ends well."""
    found = without_posix(MAIN, *arguments)
    assert found.returncode == 0, found.stderr
    return found.stdout


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_every_module_can_be_imported() -> None:
    found = without_posix(IMPORTS)
    assert (found.returncode, found.stderr) == (0, "")


def test_bundles_and_sets_are_written_and_replaced(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = tmp_path / ".out.0123456789ab.partial"
    (left / "sub").mkdir(parents=True)
    done("export", checkpoint("qwen2_5_vl", "small"), out, "--quiet")
    done("export", checkpoint("qwen2_5_vl", "small"), out, "--quiet", "--force", "--precision", "fp32")
    assert "DAMAGED" not in done("inspect", out, "--verify")
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.png").write_bytes((HELDOUT / "simple_0000.png").read_bytes())
    (tmp_path / "truth.csv").write_text("image,prompt,task,answer\na.png,Read.,ocr,x\n")
    done("eval", "build", scans, tmp_path / "truth.csv", tmp_path / "set")
    done("calib", "build", scans, tmp_path / "calib", "--quiet")
    done("calib", "build", scans, tmp_path / "calib", "--quiet", "--force")
    assert names(tmp_path) == ["calib", "out", "scans", "set", "truth.csv"]


@pytest.mark.slow
def test_models_are_quantized_and_compared(tmp_path: Path) -> None:
    """Stages are written while sessions have others mapped, and processes started, watched and ended."""
    out, data = tmp_path / "out", tmp_path / "set"
    data.mkdir()
    label = json.loads((HELDOUT / "labels.jsonl").read_text("utf-8").splitlines()[0])
    (data / label["image"]).write_bytes((HELDOUT / label["image"]).read_bytes())
    (data / "labels.jsonl").write_text(json.dumps(label))
    done("export", REFERENCE, out / "fp16", "--quiet", "--max-pixels", 100352)
    done("export", REFERENCE, out / "small", "--quiet", "--max-pixels", 100352, "--max-size", "5MB", "--samples", 1)
    common = "--data", data, "--threads", 1, "--max-new-tokens", 4
    done("compare", out / "fp16", out / "small", *common, "--out", tmp_path / "report")
    assert names(out) == ["fp16", "small"] and names(tmp_path) == ["out", "report", "set"]
    assert names(tmp_path / "report") == ["index.html", "report.json", "report.md", "work"]


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii"])
def test_a_console_that_cannot_show_all_is_not_an_error(encoding: str) -> None:
    print_all = "from qvl_export.cli.commands import cli, run\nimport click, sys\n"
    print_all += "cli.callback = None\n@cli.command()\ndef show(): click.echo('28 \u00d7 28 \u2190 \u2265 \u65e5')\n"
    found = without_posix(f"{print_all}run(cli, ['show'])", PYTHONIOENCODING=encoding)
    assert (found.returncode, found.stderr) == (0, "") and found.stdout.startswith("28 ")


@pytest.mark.parametrize(
    "name", ["C:model.safetensors", "sub\\model.safetensors", "..\\model.safetensors", "sub/m", ".."]
)
def test_shard_names_are_those_of_files_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="leaves the checkpoint directory"):
        _ = Checkpoint(tmp_path).tensors


@pytest.mark.parametrize(
    "name", ["C:llm.onnx", "C:\\llm.onnx", "..\\llm.onnx", "llm.onnx:stream", "\\\\host\\llm.onnx"]
)
def test_bundle_files_that_leave_it_on_windows_are_refused_everywhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="names a file outside the bundle"):
        inside(tmp_path, name)


def test_bundle_files_have_names_for_every_platform(bundle: Callable[[str, str, str], Path]) -> None:
    found = list(bundle("qwen2_5_vl", "small", "fp16").iterdir())
    assert found and not any(PureWindowsPath(path.name).is_reserved() or not is_plain(path.name) for path in found)
