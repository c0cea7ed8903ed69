"""ONNX Runtime missing, installed twice, or damaged: one line that says which extra to install."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

TENSORRT = """
import sys
sys.modules["onnxruntime"] = None
from qvl_runtime.errors import InstallError
from qvl_runtime.sessions import available; from qvl_runtime.sessions.feeds import cache_state
from importlib import import_module
from types import SimpleNamespace as Fields
manifest = Fields(graphs={}, provenance=Fields(options={}))
for target in ("tensorrt", "tensorrt_rtx"):
    sys.modules[target] = None
    assert "write_indices" in cache_state(target, 0, 1, 8)
    try:
        import_module(f"qvl_runtime.sessions.{target}").open(None, manifest, None)
    except InstallError as error:
        print(error)
"""
LOAD = """
import sys
sys.modules["onnxruntime"] = None
import qvl_runtime
try:
    qvl_runtime.load(sys.argv[1])
except qvl_runtime.InstallError as error:
    print(error)
"""


def out(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_without_an_engine_loading_says_which_extra_to_install(bundle: Any) -> None:
    said = out(LOAD, bundle("qwen2_5_vl", "small", "fp16"))
    assert said.startswith('no ONNX Runtime is installed (pip install "onnxruntime>=1.24", which is the extra')
    assert "qvl-runtime[cpu]" in said and "qvl-runtime[cuda]" in said and said.count("\n") == 1


def test_engines_of_tensorrt_need_no_onnx_runtime() -> None:
    lines = out(TENSORRT).splitlines()
    assert [line.split(" (")[0] for line in lines] == ["TensorRT is not installed", "TensorRT-RTX is not installed"]
