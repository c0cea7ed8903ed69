"""`build_engines.sh`: a script that builds a bundle's engines with `trtexec` on the machine that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qvl_runtime.manifest import EngineEntry, GraphEntry, Manifest, Profile

from ..common.progress import Progress
from . import SCRIPT, Finished, engine_name, with_engine
from .profiles import profiles

HEAD = """#!/bin/sh
# Builds this bundle's engines on the machine that is to run them, with trtexec of TensorRT 10.15 or later:
#     sh build_engines.sh
# TRTEXEC is the program where it is not found, WORKSPACE the MiB of GPU memory that building may take.
set -eu
cd "$(dirname "$0")"
trtexec=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
if ! help=$("$trtexec" --help 2>&1); then
    echo "error: $trtexec does not run (install TensorRT, or set TRTEXEC to its trtexec)" >&2
    exit 2
fi
typed=
case $help in *--stronglyTyped*) typed=--stronglyTyped ;; esac  # TensorRT 11 knows nothing else
plain=
case $help in *--decomposableAttentions*) plain='--decomposableAttentions=*' ;; esac  # where no fused one fits
set -f

build() {  # model, engine, profiles
    model=$1 engine=$2
    shift 2
    "$trtexec" --onnx="$model" --saveEngine="$engine.partial" $typed $plain --skipInference \\
        --memPoolSize=workspace:"${WORKSPACE:-2048}" --timingCacheFile=timing.cache "$@"
    mv "$engine.partial" "$engine"
}
"""


def finish(directory: Path, manifest: Manifest, progress: Progress, kind: str) -> Finished:
    """Writes the script beside the ONNX files, and records in the manifest the engines that it will build."""
    progress.stage(f"writing {SCRIPT}: engines are built on the device")
    graphs = {}
    for name, entry in manifest.graphs.items():
        shapes = profiles(name, manifest, kind)
        engine = EngineEntry(file=engine_name(name), builder=None, compute_capabilities=[], profiles=shapes)
        graphs[name] = with_engine(entry, engine, keep=True)
    path = directory / SCRIPT
    path.write_text(text(graphs), "utf-8")
    path.chmod(0o755)
    return Finished(graphs, (SCRIPT,))


def text(graphs: Mapping[str, GraphEntry]) -> str:
    """The script for graphs that have engines with profiles."""
    return HEAD + "".join(_command(entry) for entry in graphs.values())


def _command(entry: GraphEntry) -> str:
    assert entry.engine is not None
    words = [f"build {entry.model} {entry.engine.file}"]
    for index, profile in enumerate(entry.engine.profiles):
        words += [f"--profile={index}", *_bounds(entry, profile)]
    return "\n" + " \\\n    ".join(words) + "\n"


def _bounds(entry: GraphEntry, profile: Profile) -> Sequence[str]:
    dynamic = [port for port in entry.inputs if port.dynamic]
    return [
        f"--{which}Shapes="
        + ",".join(f"{port.name}:{'x'.join(map(str, profile.shape(port, which)))}" for port in dynamic)
        for which in ("min", "opt", "max")
    ]
