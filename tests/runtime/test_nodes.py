"""Graphs are searched, before they are loaded, for attributes that crash ONNX Runtime."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from qvl_runtime.__main__ import main
from qvl_runtime._onnxruntime.nodes import MAX_FIELDS, crashing_attribute
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError
from qvl_runtime.model import load
from tests.runtime.test_hostile_bundles import assert_one_line, edit

BUNDLES = Path(__file__).parents[1] / "checkpoints" / "bundles"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "v2", tmp_path / "bundle"))


def change_graph(bundle: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change a graph, and the manifest so that it agrees."""
    path = bundle / f"{name}.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    replace(bundle, path, model.SerializeToString())


def replace(bundle: Path, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    edit(bundle, f"files.{path.name}", {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()})


def setting(kind: str, attribute: str, value: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == kind)
        next(found for found in node.attribute if found.name == attribute).i = value

    return change


@pytest.mark.parametrize(
    ("name", "kind", "attribute", "value"),
    [
        ("llm", "GroupQueryAttention", "kv_num_heads", 1 << 62),
        ("llm", "GroupQueryAttention", "num_heads", 1 << 62),
        ("llm", "GroupQueryAttention", "num_heads", -(1 << 62)),
        ("vision", "Split", "num_outputs", 2),
    ],
)
def test_attributes_that_crash_onnx_runtime_are_refused(
    bundle: Path, name: str, kind: str, attribute: str, value: int, capsys: pytest.CaptureFixture[str]
) -> None:
    change_graph(bundle, name, setting(kind, attribute, value))
    assert main(["run", str(bundle), "Hello"]) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert attribute in error


@pytest.mark.parametrize("content", [b"", b"\xff" * 11, b"\x3a\x7f\x0a", b"\x3b", b"\x39\x01"])
def test_files_that_are_not_models_are_refused(
    bundle: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(bundle, bundle / "llm.onnx", content)
    assert main(["run", str(bundle), "Hello"]) == 2
    assert_one_line(capsys.readouterr().err)


@pytest.mark.parametrize("function", [False, True])
def test_attributes_within_other_graphs_are_found(function: bool) -> None:
    """Branches of an `If`, one within another, and functions."""
    make = onnx.helper
    node = make.make_node("GroupQueryAttention", ["x"], ["y"], kv_num_heads=1 << 62)
    for _ in range(2):
        branch = make.make_graph([node], "branch", [], [make.make_tensor_value_info("y", 1, None)])
        node = make.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = make.make_model(make.make_graph([] if function else [node], "graph", [], []))
    if function:
        model.functions.append(make.make_function("own", "f", ["c"], ["y"], [node], []))
    assert crashing_attribute(model.SerializeToString()) == f"kv_num_heads {1 << 62} of GroupQueryAttention"


@pytest.mark.slow
def test_graphs_of_a_million_nodes_are_refused_in_time(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here empty ones, of two bytes each; a file has gigabytes of them."""
    replace(bundle, bundle / "llm.onnx", b"\x3a\x80\x80\x80\x04" + b"\x0a\x00" * (1 << 22))
    assert main(["run", str(bundle), "Hello"]) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert f"more than {MAX_FIELDS:,} fields" in error


def test_files_that_cannot_be_opened_are_reported(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="aaa: cannot be read: File name too long"):
        read_manifest(bundle / ("a" * 5000))

    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    read = Path.read_bytes
    for name in ("bundle.json", "vision.onnx"):
        monkeypatch.setattr(Path, "read_bytes", lambda path, n=name: refused(path) if path.name == n else read(path))
        with pytest.raises(BundleError, match=f"{name}: cannot be read: Permission denied"):
            load(bundle, threads=1)


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("v*/*.onnx")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_real_graphs_have_no_such_attribute(path: Path) -> None:
    assert crashing_attribute(path.read_bytes()) is None
    model = onnx.load(path, load_external_data=False)
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("own", 1 << 40))
    assert crashing_attribute(model.SerializeToString()) == f"own {1 << 40} of {model.graph.node[-1].op_type}"
