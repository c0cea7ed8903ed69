"""ONNX Runtime missing, installed twice, or damaged: one line that says which extra to install."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from qvl_runtime._onnxruntime import library as onnx_runtime
from qvl_runtime.errors import InstallError

TENSORRT = """
import sys
sys.modules["onnxruntime"] = None
from qvl_runtime.errors import InstallError
from qvl_runtime.sessions import available; from qvl_runtime.sessions.feeds import cache_state
from importlib import import_module
for target in ("tensorrt", "tensorrt_rtx"):
    sys.modules[target] = None
    assert "write_indices" in cache_state(target, 0, 1, 8)
    try:
        import_module(f"qvl_runtime.sessions.{target}").open(None, None, None)
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


@pytest.mark.parametrize("other", ["onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"])
def test_two_of_them_are_refused_in_one_line(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They overwrite each other's files, so that [cpu] and [cuda] exclude each other."""

    def version(name: str) -> str:
        if name in ("onnxruntime", other):
            return "1.24"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(InstallError) as caught:
        onnx_runtime.check_install()
    assert str(caught.value) == (
        f"onnxruntime and {other} are installed together and overwrite each other "
        f"(pip uninstall -y onnxruntime {other}, then install one extra, qvl-runtime[cpu] or qvl-runtime[cuda])"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"ONNX Runtime is damaged: it has no InferenceSession \(pip install"),  # a folder that was left behind
        ("import surely_missing", r"ONNX Runtime needs surely_missing, which is missing \(pip install"),
        ("raise ImportError('libfoo.so: not found')", r"cannot be loaded: libfoo\.so: not found \(install it again\)"),
    ],
)
def test_a_damaged_one_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    if content is not None:
        (tmp_path / "onnxruntime" / "__init__.py").write_text(content)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
if {content is None}:
    sys.path[:] = [path for path in sys.path if "site-packages" not in path]
from qvl_runtime.errors import InstallError
try:
    import qvl_runtime._onnxruntime.library
except InstallError as error:
    print(error)
"""
    found = out(code)
    assert found.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)
