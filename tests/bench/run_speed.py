"""Speed of quantized bundles against the fp16 bundle, on random weights of published shapes.

    python -m tests.bench.run_speed [--blocks N] [--threads 2] [--repeat 3] [--block-size N] [--part all]

A page of 5,040 patches through the vision tower in the shapes of Qwen2.5-VL-3B and Qwen2-VL-2B, its time split by
operator; a prompt of 1,300 tokens and 32 generated ones through the language model of the latter. Precisions take
turns, figures are medians, ratios are of one run. `--blocks` builds only the first N vision blocks and decoder layers
(those of Qwen2.5-VL with full attention are the 8th, 16th …). Needs about 15 GB of memory, and of disk where
QVL_BENCH_DIR points.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort

from qvl_runtime.answers.generate import Decoder, GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import DECODE, ImageGeometry
from qvl_runtime.positions import Grid
from qvl_runtime.prompts.prompt import Prompt
from qvl_runtime.sessions.cpu import CpuLlm, open_vision, session_options
from qvl_runtime.sessions.feeds import vision_feeds
from tests.plans import export_plan

from .random_bundle import export_random
from .random_checkpoint import make

PAGE = Grid(1, 84, 60)  # an A4 page at 100 dpi: 5,040 patches, 1,260 tokens
PROMPT, ANSWER = 1300, 32
VISION_SHAPES, LLM_SHAPE = ("qwen2.5-vl-3b", "qwen2-vl-2b"), "qwen2-vl-2b"
KINDS = {
    "attention": ("MultiHeadAttention", "Attention"),
    "linears": (
        "FusedMatMul",
        "MatMul",
        "Gemm",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulNBits",
    ),
    "rounding": ("Abs", "ReduceMax", "Max", "Div", "QuantizeLinear", "DynamicQuantizeLinear"),
}
"""Operators by what they spend time on; rounding is of activations, token by token."""


def take_turns(sides: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, list[Any]]:
    """What each side returns, `repeat` times, after a round that does not count."""
    for side in sides.values():
        side()
    rounds = [{name: side() for name, side in sides.items()} for _ in range(repeat)]
    return {name: [results[name] for results in rounds] for name in sides}


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def split(graph: Path, feeds: dict[str, Any], threads: int) -> dict[str, float]:
    """Seconds by kind of operator in the third run, which allocates no memory, from ONNX Runtime's profiler."""
    options = session_options(threads)
    options.enable_profiling, options.profile_file_prefix = True, str(graph.with_suffix(".profile"))
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, feeds)
    kinds = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    found: Counter[str] = Counter()
    for event in {event["name"]: event for event in nodes}.values():  # of every node its last run
        found[kinds.get(event["args"]["op_name"], "rest")] += event["dur"]
    return {kind: round(micros / 1e6, 3) for kind, micros in found.most_common()}


def bundles(here: Path, source: Path, precisions: tuple[str, ...], block_size: int | None) -> dict[str, Path]:
    for precision in precisions:
        blocks = {"block_size": block_size} if block_size and precision in ("int4", "hybrid") else {}
        export_random(export_plan(source, here / precision, precision=precision, **blocks))
    return {precision: here / precision for precision in precisions}


def page(image: ImageGeometry) -> np.ndarray:
    """Random patches."""
    return np.random.default_rng(0).standard_normal((1, PAGE.h * PAGE.w, image.patch_dim), np.float32)


def page_through(bundle: Path, threads: int) -> Callable[[], float]:
    """Times a page through the vision tower."""
    manifest = read_manifest(bundle)
    engine, pixels = open_vision(bundle, manifest, threads), page(manifest.image)
    return lambda: seconds(lambda: engine.encode(pixels, PAGE))


def vision(here: Path, shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per page in fp16 and INT8, their ratio, and the split of each."""
    source = make(shape, here / "checkpoint", layers=1, blocks=options.blocks)
    made = bundles(here, source, ("fp16", "int8"), options.block_size)
    image = read_manifest(made["fp16"]).image
    sides = {name: page_through(path, options.threads) for name, path in made.items()}
    medians = {name: statistics.median(times) for name, times in take_turns(sides, options.repeat).items()}
    feeds = {"pixel_values": page(image), **vision_feeds(image, PAGE)}
    return {
        "patches": PAGE.h * PAGE.w,
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "int8_times_faster": round(medians["fp16"] / medians["int8"], 2),
        "split_seconds": {name: split(path / "vision.onnx", feeds, options.threads) for name, path in made.items()},
    }


def weights_read(bundle: Path, graph: str) -> float:
    """Gigabytes of weights that a token reads: scales are held as float32, of a table that is looked up a row is read.

    Pieces of float16 weights are inputs with a default, see `graph.row_pieces`.
    """
    model = onnx.load(bundle / f"{graph}.onnx", load_external_data=False).graph
    looked_up = {node.input[0] for node in model.node if node.op_type == "Gather"}
    pieces, half = {value.name for value in model.input}, onnx.TensorProto.FLOAT16
    total = 0
    for tensor in model.initializer:
        place = {item.key: item.value for item in tensor.external_data}
        if place and tensor.name not in looked_up:
            total += int(place["length"]) * (2 if tensor.data_type == half and tensor.name not in pieces else 1)
    return total / 1e9


def read_and_write(bundle: Path, threads: int) -> Callable[[], tuple[float, float]]:
    """Times one prompt and its answer: tokens per second of each."""
    manifest = read_manifest(bundle)
    decoder = Decoder(cast(Any, CpuLlm(bundle, manifest, threads)), manifest.llm, cast(Any, None))
    draw = np.random.default_rng(0)

    def once() -> tuple[float, float]:
        ids = draw.integers(1000, 150000, PROMPT)  # others every time: nothing is reused
        prompt = Prompt(ids, np.tile(np.arange(PROMPT), (3, 1)), ())
        prefill = seconds(lambda: decoder.prefill(prompt, np.array([PROMPT - 1]), GenerationStats()))
        decode = seconds(lambda: [decoder.step(int(token), PROMPT + i) for i, token in enumerate(ids[:ANSWER])])
        return PROMPT / prefill, ANSWER / decode

    return once


def llm(here: Path, shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of prompt and answer by precision, how many times fp16 that is, and GB/s that answers read."""
    source = make(shape, here / "checkpoint", layers=options.blocks, blocks=1)
    made = bundles(here, source, ("fp16", "int8", "int4", "hybrid"), options.block_size)
    sides = {name: read_and_write(path, options.threads) for name, path in made.items()}
    found = take_turns(sides, options.repeat)
    prefill, decode = (
        {name: statistics.median(result[which] for result in results) for name, results in found.items()}
        for which in (0, 1)
    )
    read = {
        name: weights_read(path, DECODE if DECODE in read_manifest(path).graphs else "llm")
        for name, path in made.items()
    }
    return {
        name: {
            "prefill_tokens_per_second": round(prefill[name], 1),
            "prefill_times_fp16": round(prefill[name] / prefill["fp16"], 2),
            "decode_tokens_per_second": round(decode[name], 2),
            "decode_times_fp16": round(decode[name] / decode["fp16"], 2),
            "decode_gb_per_second": round(decode[name] * read[name], 1),
        }
        for name in made
    }


def cpu() -> str:
    """The processor's name, and whether it multiplies int8 in one instruction (VNNI)."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {'' if 'vnni' in text else 'no '}VNNI"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, help="vision blocks and decoder layers (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--block-size", type=int, help="of int4 (default: that of exports)")
    parser.add_argument("--part", choices=["vision", "llm", "all"], default="all")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"cpu": cpu(), **vars(options), "blocks": options.blocks or "all"}
    parts = [("vision", vision, shape) for shape in VISION_SHAPES] + [("llm", llm, LLM_SHAPE)]
    for part, measure, shape in parts:
        if options.part in (part, "all"):
            with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
                result[f"{part} of {shape}"] = measure(Path(directory), shape, options)
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
