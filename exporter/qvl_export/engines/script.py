"""`build_engines.sh`: a script that builds a bundle's engines with `trtexec` on the machine that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from qvl_runtime.manifest import Bounds, EngineEntry, GraphEntry, Manifest, Profile

from ..common.progress import Progress
from . import SCRIPT, Finished, engine_name, with_engine
from .profiles import profiles
from .tensorrt_releases import RELEASES, Release

HEAD = """#!/bin/sh
# Builds this bundle's engines on the machine that is to run them, with trtexec of TensorRT {name} or later:
#     sh build_engines.sh
# TRTEXEC is the program where it is not found, WORKSPACE the MiB of GPU memory that building may take.
set -eu
case ${{TRTEXEC:-}} in /*) ;; */*) TRTEXEC=$PWD/$TRTEXEC ;; esac
cd "$(dirname "$0")"
trtexec=${{TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}}
if ! help=$("$trtexec" --help 2>&1); then
    echo "error: $trtexec does not run (install TensorRT, or set TRTEXEC to its trtexec)" >&2
    exit 2
fi
# 8602 is 8.6.2, 100300 is 10.3.0
version=$(printf '%s' "$help" | sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/\\1/p' | head -n 1)
if [ "${{version:-{number}}}" -lt {number} ]; then
    older=
{older}    echo "error: $trtexec is of TensorRT v$version, the graphs need {name}${{older:+ (export with $older)}}" >&2
    exit 2
fi
skip=--skipInference
case $help in *--skipInference*) ;; *--buildOnly*) skip=--buildOnly ;; esac
typed=
case $help in *--stronglyTyped*) typed=--stronglyTyped ;; esac  # TensorRT 11 knows nothing else, 8 has hints only
plain=
case $help in *--decomposableAttentions*) plain='--decomposableAttentions=*' ;; esac  # where no fused one fits
set -f
partial=
trap '[ -z "$partial" ] || rm -f "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build() {{  # model, engine, hints of types for TensorRT 8, profiles
    model=$1 engine=$2 hints=$3
    shift 3
    if [ -n "$typed" ] || [ "${{version:-{number}}}" -ge 100000 ]; then hints=; fi
    partial=$engine.partial
    "$trtexec" --onnx="$model" --saveEngine="$partial" $typed $hints $plain $skip \\
        --memPoolSize=workspace:"${{WORKSPACE:-2048}}" --timingCacheFile=timing.cache "$@"
    mv "$partial" "$engine"
}}
"""


def finish(directory: Path, manifest: Manifest, progress: Progress, kind: str, release: Release) -> Finished:
    """Writes the script beside the ONNX files, and records in the manifest the engines that it will build."""
    progress.stage(f"writing {SCRIPT}: engines are built on the device")
    graphs, hints = {}, {}
    for name, entry in manifest.graphs.items():
        shapes = profiles(name, manifest, kind)
        if not release.strongly_typed:
            shapes, hints[name] = [merged(shapes)], type_hints(directory / entry.model)
        engine = EngineEntry(file=engine_name(name), builder=None, compute_capabilities=[], profiles=shapes)
        graphs[name] = with_engine(entry, engine, keep=True)
    path = directory / SCRIPT
    path.write_text(text(graphs, release, hints), "utf-8")
    path.chmod(0o755)
    return Finished(graphs, (SCRIPT,))


def merged(shapes: Sequence[Profile]) -> Profile:
    """Returns one profile with the bounds of all and the kernels of the first: `trtexec` 8.6 builds a single one."""
    first = shapes[0]
    bounds = {
        axis: Bounds(
            min=min(each.axes[axis].min for each in shapes),
            opt=bound.opt,
            max=max(each.axes[axis].max for each in shapes),
        )
        for axis, bound in first.axes.items()
    }
    return Profile(name=first.name, axes=bounds)


def type_hints(model: Path) -> str:
    """Returns the options by which TensorRT 8, where types are hints, computes in the graph's types.

    Everything is float32 but what gives float16; int8 products are those between Q and DQ.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(model), load_external_data=False)).graph
    half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    names = [node.name for node in graph.node if half.intersection(node.output) and node.op_type != "Constant"]
    words = ["--int8"] if any(node.op_type == "QuantizeLinear" for node in graph.node) else []
    if names:
        layers = ",".join(["*:fp32", *(f"{name}:fp16" for name in names)])
        words += ["--fp16", "--precisionConstraints=prefer", f"--layerPrecisions={layers}"]
    return " ".join(words)


def text(graphs: Mapping[str, GraphEntry], release: Release, hints: Mapping[str, str]) -> str:
    """The script for graphs that have engines with profiles; `hints` are the options of TensorRT 8 by graph."""
    older = "".join(_if_read(each) for each in RELEASES.values() if each.number < release.number)
    head = HEAD.format(name=release.name, number=release.number, older=older)
    return head + "".join(_command(entry, release, hints.get(name, "")) for name, entry in graphs.items())


def _if_read(older: Release) -> str:
    """The line that names an older release, whose graphs a `trtexec` of this release or later reads."""
    option = f"--tensorrt-version {older.name}"
    return f'    [ "$version" -lt {older.number} ] || older="{option}"\n'


def _command(entry: GraphEntry, release: Release, hints: str) -> str:
    assert entry.engine is not None
    words = [f"build {entry.model} {entry.engine.file} '{hints}'"]
    for index, profile in enumerate(entry.engine.profiles):
        number = [f"--profile={index}"] if release.strongly_typed else []  # `merged` has one, and 8.6 no such option
        words += [*number, *_bounds(entry, profile)]
    return "\n" + " \\\n    ".join(words) + "\n"


def _bounds(entry: GraphEntry, profile: Profile) -> Sequence[str]:
    dynamic = [port for port in entry.inputs if port.dynamic]
    return [
        f"--{which}Shapes="
        + ",".join(f"{port.name}:{'x'.join(map(str, profile.shape(port, which)))}" for port in dynamic)
        for which in ("min", "opt", "max")
    ]
