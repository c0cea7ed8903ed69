"""A bundle as text, for bundles of every earlier schema version."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qvl_export import export
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.manifest import Bounds, EngineEntry, GenerationDefaults, Manifest, Profile
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

BUNDLES = sorted(path for path in (Path(__file__).parents[1] / "checkpoints" / "bundles").iterdir() if path.is_dir())


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return read_manifest(request.param)


def test_every_graph_has_a_line_and_ports_are_optional(manifest: Manifest) -> None:
    long, short = (describe(manifest, ports).splitlines() for ports in (True, False))
    assert short[0].startswith(f"{manifest.family} for {manifest.target}, ")
    assert short[0].endswith(f" MB, schema {manifest.schema_version}")
    for name, graph in manifest.graphs.items():
        assert any(line.startswith(f"  {name:9} {graph.precision}, ") for line in short)
        shown = [line for line in long if line.startswith(("    in  ", "    out "))]
        assert any(f" {graph.inputs[0].name} " in line for line in shown)
    assert len(long) > len(short) and [line for line in long if line.endswith(" in all")], "the cache is one line"


def test_settings_that_differ_from_the_neutral_ones(manifest: Manifest) -> None:
    def answers(**settings: object) -> str:
        changed = msgspec.structs.replace(manifest, generation=GenerationDefaults(**settings))  # type: ignore[arg-type]
        return next(line for line in describe(changed).splitlines() if line.startswith("  answers"))

    assert answers() == "  answers   greedy, as the checkpoint recommends"
    assert answers(temperature=0.3).endswith("recommends"), "nothing is drawn"
    assert answers(repetition_penalty=1.5).endswith("with --use-generation-config repetition penalty 1.5")
    assert "temperature 0.3" in answers(do_sample=True, temperature=0.3)


def test_engines_have_a_line_per_profile(manifest: Manifest) -> None:
    profile = Profile(name="page", axes={"frames": Bounds(1, 1, 1), "patches": Bounds(4, 64, 1024)})
    engine = EngineEntry(file="vision.engine", builder=None, compute_capabilities=[86, 120], profiles=[profile])
    graph = msgspec.structs.replace(manifest.graphs["vision"], engine=engine)
    lines = describe(msgspec.structs.replace(manifest, graphs={"vision": graph})).splitlines()
    assert "    vision.engine to be built on the device for compute capability 8.6, 12.0" in lines
    assert "    profile page      frames 1, patches 4 to 1,024 (best 64)" in lines


def test_engines_that_are_built_say_so(manifest: Manifest, tmp_path: Path) -> None:
    profile = Profile(name="page", axes={})
    engine = EngineEntry(file="vision.engine", builder=None, compute_capabilities=[], profiles=[profile])
    graph = msgspec.structs.replace(manifest.graphs["vision"], engine=engine)
    changed = msgspec.structs.replace(manifest, graphs={"vision": graph})
    assert "    vision.engine to be built on the device" in describe(changed, bundle=tmp_path).splitlines()
    (tmp_path / "vision.engine").write_bytes(b"built")
    assert "    vision.engine built on the device" in describe(changed, bundle=tmp_path).splitlines()


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({}, "  form      opset 24, cache scatter: new tokens are written into it"),
        ({"opset": 20}, "  form      opset 20, cache concat: new tokens are appended to it"),
    ],
)
def test_a_portable_bundle_has_its_opset_and_cache(tmp_path: Path, options: dict[str, int], form: str) -> None:
    export(export_plan(REFERENCE, tmp_path / "out", target="portable", **options))
    found = read_manifest(tmp_path / "out")
    assert form in describe(found, bundle=tmp_path / "out").splitlines()
    (tmp_path / "vision.onnx").write_bytes(b"no model")
    assert f"  form      {form.partition(', ')[2]}" in describe(found, bundle=tmp_path).splitlines()
