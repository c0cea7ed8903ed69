"""The script that builds engines on a device."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from qvl_export.common.progress import NullProgress
from qvl_export.engines import SCRIPT, script
from qvl_export.engines.tensorrt_releases import RELEASES
from qvl_runtime.bundle import read_manifest

BUNDLE = read_manifest(Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6")
MANIFEST = msgspec.structs.replace(BUNDLE, graphs={"vision": BUNDLE.graphs["vision"]})
"""A bundle of one graph: the cache of `cpu` has an axis that no profile bounds."""


def test_every_graph_is_built_with_the_shapes_of_its_profiles(tmp_path: Path) -> None:
    finished = script.finish(tmp_path, MANIFEST, NullProgress(), "pages", RELEASES["10.15"])
    text = (tmp_path / SCRIPT).read_text("utf-8")
    assert finished.added == (SCRIPT,) and finished.graphs.keys() == MANIFEST.graphs.keys()
    for name, entry in finished.graphs.items():
        assert entry.model == f"{name}.onnx" and entry.engine is not None and entry.engine.builder is None
        assert f"build {name}.onnx {name}.engine '' \\\n" in text
        for index, profile in enumerate(entry.engine.profiles):
            port = next(port for port in entry.inputs if port.dynamic)
            for which in ("min", "opt", "max"):
                sizes = "x".join(map(str, profile.shape(port, which)))
                assert f"--{which}Shapes={port.name}:{sizes}" in text
            assert f"--profile={index}" in text


def test_a_shell_can_parse_it(tmp_path: Path) -> None:
    script.finish(tmp_path, MANIFEST, NullProgress(), "video", RELEASES["10.15"])
    subprocess.run(["sh", "-n", tmp_path / SCRIPT], check=True)
    assert (tmp_path / SCRIPT).stat().st_mode & 0o111
