"""Values of a manifest that follow from others, and bounds that are refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qvl_runtime import manifest as module
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import Bounds, Port, Profile, json_schema

MANIFEST = read_manifest(Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6")


def test_the_shape_of_an_input_at_the_bounds_of_a_profile() -> None:
    port = Port(name="pixel_values", dtype="float32", shape=["frames", "patches", 1176])
    profile = Profile(name="page", axes={"frames": Bounds(1, 2, 3), "patches": Bounds(4, 5, 6)})
    assert [profile.shape(port, which) for which in ("min", "opt", "max")] == [[1, 4, 1176], [2, 5, 1176], [3, 6, 1176]]
    assert port.dynamic and not Port(name="x", dtype="int64", shape=[1]).dynamic


@pytest.mark.parametrize("sizes", [(2, 1, 3), (1, 4, 3), (3, 2, 1)])
def test_bounds_are_in_order(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=" does not hold"):
        Bounds(*sizes)
    assert 1 in Bounds(1, 2, 3) and 3 in Bounds(1, 2, 3) and 4 not in Bounds(1, 2, 3) and "1" not in Bounds(1, 2, 3)


def test_sizes_of_patches_and_tokens() -> None:
    image = msgspec.structs.replace(MANIFEST.image, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    assert (image.factor, image.patch_dim) == (28, 3 * 2 * 14 * 14)


def test_files_of_a_graph() -> None:
    graph = MANIFEST.graphs["llm"]
    assert graph.files == ("llm.onnx", "llm.onnx.data")
    assert msgspec.structs.replace(graph, data=None).files == ("llm.onnx",)


def test_the_schema_file_is_that_of_the_types() -> None:
    assert (Path(module.__file__).parent / "bundle.schema.json").read_bytes() == json_schema()


def test_layers_of_older_bundles_keep_keys_and_values() -> None:
    specs = MANIFEST.cache_specs
    assert not MANIFEST.cache and not MANIFEST.recurrent and len(specs) == MANIFEST.llm.num_layers
    assert {spec.kind for spec in specs} == {"kv"}
    key, value = specs[1].tensors
    assert (key.past, value.present) == ("past_key_values.1.key", "present.1.value")
    assert key.dims(7) == (1, MANIFEST.llm.num_key_value_heads, 7, MANIFEST.llm.head_dim)
