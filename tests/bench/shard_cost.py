"""The cost of running the pages of a stage in processes that write files, as `--ray` does, instead of in this one.

    python -m tests.bench.shard_cost [--pages 32] [--tokens 512] [--ray ADDRESS]

One decoder layer of the Qwen2-VL-2B shape with random weights, random hidden states, Hessians of all four inputs of its
linears, the largest of 8,960 columns. Seconds of observing and of making the next stage's inputs; without `--ray` the
jobs are processes of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import read_spec, tensors
from qvl_export.families.spec import TextSpec
from qvl_export.jobs.open_pool import open_pool
from qvl_export.quant import schemes
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration.cluster import ClusterRunner
from qvl_export.quant.calibration.shards import LocalRunner, Runner
from qvl_export.quant.calibration.tower import Tower
from qvl_export.quant.calibration.work_dir import Sample, Work
from qvl_export.quant.towers import llm_tower
from qvl_export.targets import lower
from qvl_runtime.sessions.feeds import cache_state

from .random_checkpoint import make
from .run_speed import cpu


def samples(spec: TextSpec, pages: int, tokens: int) -> Iterator[Sample]:
    """Random hidden states, positions one after another, an empty cache."""
    rng = np.random.default_rng(0)
    empty = np.zeros((1, spec.num_key_value_heads, tokens, spec.head_dim), np.float32)
    feeds: dict[str, Any] = {"position_ids": np.tile(np.arange(tokens), (3, 1, 1)), "past_key": empty}
    for _ in range(pages):
        hidden = rng.standard_normal((1, tokens, spec.hidden_size)).astype(np.float32)
        yield Sample(hidden, feeds | {"past_value": empty, **cache_state("cpu", 0, tokens, tokens)})


def seconds(tower: Tower, work: Work, runner: Runner) -> dict[str, float]:
    """Of both passes over the pages."""
    began = time.perf_counter()
    stage = tower.build(tower.stages[0], {})
    calibrate.collect_statistics(tower, stage, work, runner)
    observed = time.perf_counter()
    for page, hidden in enumerate(runner.outputs(work.directory / "stage.onnx")):
        work.keep(1, page, hidden)
    return {"observe": round(observed - began, 1), "rerun": round(time.perf_counter() - observed, 1)}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--ray", metavar="ADDRESS")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"cpu": cpu(), **vars(options)}
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory, open_pool(options.ray) as pool:
        source = Checkpoint(make("qwen2-vl-2b", Path(directory) / "checkpoint", 1, 1))
        spec, work = read_spec(source), Work(Path(directory) / "work", {})
        int4 = schemes.find("int4", schemes.Options())
        tower = llm_tower(spec, lower("cpu", "fp16", 4), tensors(source, spec), lambda _: int4)
        work.begin(samples(spec.text, options.pages, options.tokens))
        runners = {"here": LocalRunner(partial(work.samples, 0), work.directory), "jobs": ClusterRunner(pool, work, 0)}
        return found | {name: seconds(tower, work, runner) for name, runner in runners.items()}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
