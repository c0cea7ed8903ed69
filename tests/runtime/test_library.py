"""ONNX Runtime is refused in one line if it is installed twice or damaged."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from qvl_runtime._onnxruntime import library as onnx_runtime
from qvl_runtime.errors import InstallError
from tests.runtime.test_onnx_runtime import out


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


@pytest.mark.parametrize("interrupt", ["KeyboardInterrupt()", "SystemExit(143)"])
def test_an_interrupt_while_it_is_imported_is_not_damage(interrupt: str, tmp_path: Path) -> None:
    """Its C++ module raises `ImportError: initialization failed` from the interrupt."""
    (tmp_path / "onnxruntime").mkdir()
    lines = f"try:\n    raise {interrupt}", "except BaseException as error:\n    raise ImportError('failed') from error"
    (tmp_path / "onnxruntime" / "__init__.py").write_text("\n".join(lines))
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
try:
    import qvl_runtime._onnxruntime.library
except (KeyboardInterrupt, SystemExit) as error:
    print(repr(error))
"""
    assert out(code).strip() == interrupt
