"""The rules of the design that imports can break: which part may know which package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPORTER, RUNTIME = ROOT / "exporter" / "qvl_export", ROOT / "runtimes" / "python" / "qvl_runtime"


def sources(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    """Path below the package, and syntax tree, of every module."""
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_text("utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages a module imports anywhere, in functions too; relative imports are its own package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def importers(folder: Path, *packages: str) -> set[str]:
    return {name for name, tree in sources(folder) if imported(tree) & set(packages)}


def test_the_runtime_knows_no_exporter_package() -> None:
    assert not importers(RUNTIME, "torch", "transformers", "onnx", "onnx_ir", "onnxscript", "qvl_export", "safetensors")


def test_families_hold_no_ops() -> None:
    onnx = importers(EXPORTER / "families", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "torch")
    assert not onnx


def test_transformers_is_only_the_reference_of_a_report() -> None:
    assert all(name.startswith("evaluate/") for name in importers(EXPORTER, "transformers"))


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_stays_in_its_own_files(package: str) -> None:
    found = importers(EXPORTER, package) | importers(RUNTIME, package)
    assert found <= {f"{folder}/{package}.py" for folder in ("targets", "sessions")}


def test_openvino_stays_in_its_own_room() -> None:
    found = importers(EXPORTER, "openvino") | importers(RUNTIME, "openvino")
    assert found == {f"sessions/_openvino/{name}.py" for name in ("compiler", "stateful")}


def test_cuda_has_one_file() -> None:
    assert importers(EXPORTER, "cuda") | importers(RUNTIME, "cuda") == {"sessions/_tensorrt/cuda_driver.py"}


def test_onnx_runtime_is_imported_in_one_module() -> None:
    """That module turns its telemetry off first."""
    assert importers(EXPORTER, "onnxruntime") | importers(RUNTIME, "onnxruntime") == {"_onnxruntime/library.py"}


TORCH = {
    *(
        f"quant/gptq/{name}.py"
        for name in ("column_sweep", "compensate", "hessian", "refine", "scale_search", "solver")
    ),
    "common/libraries.py",
    "common/threads.py",
    "evaluate/answers/transformers_reference.py",
}
"""Linear algebra on big matrices, what looks for it, its threads, and the PyTorch reference of a report."""


def test_torch_is_only_for_linear_algebra() -> None:
    assert importers(EXPORTER, "torch") == TORCH


@pytest.mark.parametrize("package", ["graph", "targets"])
def test_networks_read_specs_and_no_model_type(package: str) -> None:
    for name, tree in sources(EXPORTER / package):
        mentions = [getattr(node, field, None) for node in ast.walk(tree) for field in ("id", "attr", "arg", "value")]
        assert "model_type" not in [item for item in mentions if isinstance(item, str)], name


@pytest.mark.parametrize("module", ["qvl_export", "qvl_export.cli.commands"])
def test_the_exporter_starts_without_heavy_packages(module: str) -> None:
    """`--help` and `run` must not wait for torch."""
    code = (
        f"import sys, {module}; print(sorted({{'torch', 'transformers', 'onnxruntime', 'scipy'}} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/", timeout=120)
    assert out.stdout == "[]\n"
