"""PyTorch is an extra: a plain export works without it, and one that calibrates says so at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvl_export.errors import ExportError
from qvl_export.jobs.pool import ThisMachine
from qvl_export.quant.calibration.cluster import MODULE, ShardJob
from qvl_runtime.bundle import read_manifest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from qvl_export.cli.main import main
main()
"""
QUANTIZED = Path(__file__).parents[1] / "quant" / "gptq" / "qwen2_vl_g32_sym"
WANTED = {
    "torch": "error: int8, int4 and --max-kl need torch, which is not installed "
    '(pip install "torch>=2.6", which is the extra qvl-export[quant])\n',
    "onnxruntime": "error: no ONNX Runtime is installed "
    '(pip install "onnxruntime>=1.24", which is the extra qvl-runtime[cpu], '
    'or pip install "onnxruntime-gpu[cuda,cudnn]>=1.24", which is the extra qvl-runtime[cuda])\n',
}
Checkpoints = Callable[[str, str], Path]


def run(missing: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, missing, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


@pytest.mark.parametrize("options", [(), ("--precision", "fp32"), ("--target", "portable"), ("--layout", "genai")])
def test_a_plain_export_needs_neither_pytorch_nor_an_engine(
    options: tuple[str, ...], checkpoint: Checkpoints, tmp_path: Path
) -> None:
    done = run("torch,onnxruntime", "export", checkpoint("qwen2_5_vl", "small"), tmp_path / "out", *options)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert any((tmp_path / "out").glob("*.onnx"))


def test_a_checkpoint_that_is_quantized_already_needs_neither(tmp_path: Path) -> None:
    done = run("torch,onnxruntime", "export", QUANTIZED, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "int4" in str(read_manifest(tmp_path / "out").graphs["llm"])


@pytest.mark.parametrize("missing", WANTED)
@pytest.mark.parametrize("options", [("--precision", "int8"), ("--vision-precision", "int8"), ("--max-kl", "0.1")])
def test_calibration_names_the_extra_before_anything_is_read(
    missing: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(missing, "export", tmp_path / "no checkpoint", tmp_path / "out", *options)
    assert (done.returncode, done.stderr) == (2, WANTED[missing])
    assert not list(tmp_path.iterdir())


def test_sensitivity_names_it_too(tmp_path: Path) -> None:
    done = run("torch", "sensitivity", tmp_path / "no checkpoint")
    assert (done.returncode, done.stderr) == (2, WANTED["torch"])


@pytest.mark.parametrize("missing", WANTED)
def test_a_machine_of_a_cluster_without_it_is_named_in_one_line(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    job: Any = ShardJob(str(tmp_path), 0, "stage.onnx", None, [], 1)
    with pytest.raises(ExportError) as caught:
        ThisMachine().run(MODULE, [job], 1, lambda _: None)
    assert f"error: {caught.value}\n" == WANTED[missing]
