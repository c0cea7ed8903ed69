"""The runtime stays light: quick to import, few dependencies, bounded size on disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import qvl_runtime

ALLOWED = {"numpy", "tokenizers", "pillow", "minijinja", "msgspec", "click", "platformdirs"}
FORBIDDEN = ["torch", "transformers", "onnx", "onnxscript", "onnx_ir", "qvl_export", "pydantic", "scipy", "jinja2"]
IMPORT_SECONDS = {"import qvl_runtime": 0.3, "from qvl_runtime import load": 0.6}
"""The first loads nothing heavy; the second numpy, Pillow, tokenizers and minijinja, 0.19 s of computing."""
INSTALLED_MB = 222
"""193 MB measured on Linux x86-64 in November 2026, of which onnxruntime 76 and numpy 57, and 15 percent."""

IMPORT = """
import sys, time
began = time.process_time()
exec(sys.argv[1])
print(time.process_time() - began)
"""
ANSWER = """
import json, sys
from qvl_runtime import load
model = load(sys.argv[1], threads=1)
model.generate([{"role": "user", "content": "Read the text."}], max_new_tokens=3)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def run(code: str, where: Path, *arguments: object, **variables: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=where, env=environment, timeout=120
    ).stdout


@pytest.mark.parametrize("statement", IMPORT_SECONDS)
def test_import_is_quick(tmp_path: Path, statement: str) -> None:
    """In seconds of CPU time, with Python's compiled files cached, as after an installation."""
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    seconds = min(float(run(IMPORT, tmp_path, statement, **kept)) for _ in range(5))
    print(f"{statement}: {seconds * 1000:.1f} ms")
    assert seconds < IMPORT_SECONDS[statement]


def test_an_answer_loads_no_exporter_package(bundle: Any, tmp_path: Path) -> None:
    modules = json.loads(run(ANSWER, tmp_path, bundle("qwen2_5_vl", "small", "fp32")))
    assert "onnxruntime" in modules
    assert not set(FORBIDDEN) & set(modules)


def required(distribution: str) -> set[str]:
    """The packages that it needs on this machine, without extras."""
    parsed = [Requirement(line) for line in declared(distribution)]
    return {canonical(item.name) for item in parsed if not item.marker or item.marker.evaluate({"extra": ""})}


def declared(distribution: str) -> list[str]:
    """As installed; of the runtime as its sources say."""
    if distribution != "qvl-runtime":
        return metadata.requires(distribution) or []
    path = Path(qvl_runtime.__file__).parents[1] / "pyproject.toml"
    found: list[str] = tomllib.loads(path.read_text("utf-8"))["project"]["dependencies"]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(*distributions: str) -> set[str]:
    found, todo = set(), set(distributions)
    while todo:
        found |= todo
        todo = set().union(*map(required, todo)) - found
    return found


def megabytes(distribution: str) -> float:
    """Files as installed, without compiled caches; the runtime itself may be installed in place."""
    if distribution == "qvl-runtime":
        files = list(Path(qvl_runtime.__file__).parent.rglob("*"))
    else:
        files = [Path(str(file.locate())) for file in metadata.files(distribution) or []]
    return sum(file.stat().st_size for file in files if file.is_file() and "__pycache__" not in file.parts) / 1e6


def test_declared_dependencies() -> None:
    assert required("qvl-runtime") == ALLOWED


def test_installed_size() -> None:
    sizes = {name: megabytes(name) for name in closure("qvl-runtime", "onnxruntime")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{name:20} {size:8.1f} MB")
    print(f"{'total':20} {sum(sizes.values()):8.1f} MB")
    assert min(sizes.values()) > 0
    assert sum(sizes.values()) < INSTALLED_MB
