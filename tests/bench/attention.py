"""Attention of the vision tower alone: int8 products against float, by number of patches.

    python -m tests.bench.attention [--threads 2] [--heads 16] [--size 80] [--repeat 5]

Random queries, keys and values of one frame. Both take turns; figures are medians. The threads of int8 attention share
every chunk of scores, so that its speed depends on whether their cores share a cache: run it more than once on a
virtual machine, which may move between cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnxscript import GraphBuilder

from qvl_export.graph.build import FLOAT, add_input, add_output, empty_graph, finished
from qvl_export.targets import lower
from qvl_runtime.sessions.cpu import session_options

from .run_speed import cpu, seconds, take_turns

PATCHES = 256, 576, 1024, 1600, 2520, 5040, 10000


def session(int8: bool, heads: int, size: int, threads: int) -> ort.InferenceSession:
    """q, k, v [1, patches, features] → y, as in the graphs of target `cpu`."""
    target = replace(cast(Any, lower("cpu", "fp32")), int8_attention=int8)
    graph = empty_graph("attention", target)
    q, k, v = (add_input(graph, name, FLOAT, [1, "patches", heads * size]) for name in "qkv")
    y = target.vision_attention(GraphBuilder(graph).op, q, k, v, heads, None, integer=True)
    add_output(graph, y, "y", [1, "patches", heads * size])
    model = ir.to_proto(finished(graph, target)).SerializeToString()
    return ort.InferenceSession(model, session_options(threads), providers=["CPUExecutionProvider"])


def measure(patches: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of both, and how many times faster int8 is."""
    draw = np.random.default_rng(0)
    shape = 1, patches, options.heads * options.size
    feeds = {name: draw.standard_normal(shape, np.float32) for name in "qkv"}
    sessions = {
        name: session(name == "int8", options.heads, options.size, options.threads) for name in ("fp32", "int8")
    }
    sides = {name: lambda run=found.run: seconds(lambda: run(None, feeds)) for name, found in sessions.items()}
    medians = {name: statistics.median(times) for name, times in take_turns(sides, options.repeat).items()}
    return {f"{name}_ms": round(1000 * value, 1) for name, value in medians.items()} | {
        "int8_times_faster": round(medians["fp32"] / medians["int8"], 2)
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--size", type=int, default=80, help="elements of a head")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--patches", type=int, nargs="+", default=PATCHES)
    options = parser.parse_args(arguments)
    return {"cpu": cpu(), **vars(options), "by patches": {n: measure(n, options) for n in options.patches}}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
