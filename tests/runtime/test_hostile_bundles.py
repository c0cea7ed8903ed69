"""Bundles whose numbers, names and graphs are impossible are refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qvl_runtime.__main__ import main
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError

BUNDLES = Path(__file__).parents[1] / "checkpoints" / "bundles"
HUGE = 10**30
IMPOSSIBLE: list[tuple[str, Any]] = [
    ("llm.deepstack_layers", HUGE),
    ("llm.deepstack_layers", 1 << 31),
    ("llm.deepstack_layers", 3),
    ("llm.num_layers", HUGE),
    ("llm.vocab_size", 1 << 31),
    ("llm.hidden_size", 1 << 40),
    ("llm.max_length", 1 << 40),
    ("image.spatial_merge_size", 1 << 31),
    ("image.spatial_merge_size", 255),
    ("image.patch_size", 1 << 31),
    ("image.temporal_patch_size", 1 << 31),
    ("image.min_pixels", 1 << 30),
    ("image.max_pixels", HUGE),
    ("image.image_mean", [1e308, 0.5, 0.5]),
    ("image.image_std", [1e-308, 0.5, 0.5]),
    ("tokens.image", 1 << 40),
    ("tokens.stop", [1 << 20]),
    ("tokens.video", 384),
    ("video.tokens_per_second", 1e308),
    ("video.tokens_per_second", -1.0),
    ("files.vision\0.onnx", {"size": 1, "sha256": "0" * 64}),
    ("graphs.vision.model", "vision\0.onnx"),
    ("image_tokens", {"start": "<img>", "end": "</img>", "layout": "queries"}),
    ("image_tokens", {"start": "", "end": "</img>", "layout": "grid"}),
    ("boxes", {"syntax": "xml", "unit": "pixel"}),
    ("graphs.vision.inputs", [{"name": "pixel_values", "dtype": "float32", "shape": [HUGE]}]),
]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "v2", tmp_path / "bundle"))


def edit(bundle: Path, key: str, value: Any) -> None:
    """Set `a.b.c` of its manifest; the last key may have dots of its own below `files`."""
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    group, _, name = key.rpartition(".") if key.count(".") < 2 else key.partition(".")
    place = manifest[group] if group else manifest
    while group == "graphs" and "." in name:
        key, name = name.split(".", 1)
        place = place[key]
    place[name] = value
    (bundle / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE, ids=lambda value: repr(value)[:40])
def test_impossible_manifests_are_refused(
    bundle: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle, key, value)
    assert main(["run", str(bundle), "Hello"]) == 2
    assert_one_line(capsys.readouterr().err)


def assert_one_line(error: str) -> None:
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 1000


def test_a_link_to_itself_is_refused(bundle: Path) -> None:
    (bundle / "vision.onnx").unlink()
    (bundle / "vision.onnx").symlink_to("vision.onnx")
    with pytest.raises(BundleError, match="is a broken link"):
        read_manifest(bundle)


@pytest.mark.parametrize("version", [8, 9])
def test_caches_of_another_form_are_refused(tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph that writes in place, and a state that nothing can be appended to."""
    bundle = Path(shutil.copytree(BUNDLES / f"v{version}", tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"cache_form": "concat"}))
    assert main(["run", str(bundle), "Hello"]) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "geometry and graphs disagree: cache_form" in error


CACHES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "fewer layers": lambda cache: cache.pop(),
    "a tensor less": lambda cache: cache[1]["tensors"].pop(),
    "another name": lambda cache: cache[1]["tensors"][0].update(past="past_key_values.1.values"),
    "a name twice": lambda cache: cache[1]["tensors"][0].update(past="past_key_values.0.key"),
    "no such output": lambda cache: cache[1]["tensors"][0].update(present="logits"),
    "another type": lambda cache: cache[1]["tensors"][0].update(dtype="float16"),
    "an unknown type": lambda cache: cache[1]["tensors"][0].update(dtype="int64"),
    "another size": lambda cache: cache[1]["tensors"][0].update(shape=[1, 2, "past", 1 << 30]),
    "an unknown axis": lambda cache: cache[1]["tensors"][0].update(shape=[1, 2, "sequence", 16]),
    "a state that grows": lambda cache: cache[1].update(kind="recurrent"),
    "an unknown kind": lambda cache: cache[1].update(kind="window"),
}


@pytest.mark.parametrize("change", CACHES.values(), ids=CACHES)
def test_caches_that_the_graph_does_not_have_are_refused(
    bundle: Path, change: Callable[[list[dict[str, Any]]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_manifest(bundle).cache_specs
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    manifest["cache"] = msgspec.to_builtins(known)
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert read_manifest(bundle).cache == known, "as it is, it is read"
    change(manifest["cache"])
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert main(["run", str(bundle), "Hello"]) == 2
    assert_one_line(capsys.readouterr().err)
