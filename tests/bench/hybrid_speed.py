"""Linear attention against full attention: a page, its answer, and the memory of the state, on random weights.

    python -m tests.bench.hybrid_speed [--blocks 8] [--threads 2] [--repeat 3] [--precision int4] [--bundles DIR]

Qwen3.5-0.8B and Qwen3.5-2B beside Qwen3-VL-2B, whose tower has the same form: a page of 3,848 patches (962 image
tokens) and a question until the first token, another question about the same page, and 64 tokens of an answer. Models
take turns, figures are medians, ratios are of one run. `--blocks` builds only the first N vision blocks and decoder
layers, of which every fourth has full attention in Qwen3.5. Megabytes of the state are those of the bundle's
`cache` for 1,088 tokens: keys and values grow with the tokens, of a recurrent state there are two, and each kept copy
is another. Needs about 12 GB of disk where QVL_BENCH_DIR points, with 8 blocks 5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qvl_runtime import load
from qvl_runtime.manifest import CacheTensor, Manifest
from qvl_runtime.model import Model
from tests.plans import export_plan

from .random_bundle import export_random
from .random_checkpoint import make
from .run_speed import cpu, take_turns

SHAPES = ("qwen3-vl-2b", "qwen3.5-0.8b", "qwen3.5-2b")
BASE = SHAPES[0]
PAGE = (832, 1184)
"""An A4 page at 100 dpi: 52 × 74 patches."""
ANSWER, TOKENS = 64, 1088
BYTES = {"float": 4, "float16": 2}


def size(tensors: Sequence[CacheTensor], tokens: int) -> int:
    """Bytes of what layers keep after `tokens` tokens."""
    return sum(int(np.prod(tensor.dims(tokens))) * BYTES[tensor.dtype] for tensor in tensors)


def state(manifest: Manifest) -> dict[str, float]:
    """Megabytes of keys and values, and of one recurrent state."""
    return {kind: round(size(manifest.cache_tensors(kind), TOKENS) / 1e6, 1) for kind in ("kv", "recurrent")}


def asked(page: Image.Image, question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": page}, {"type": "text", "text": question}]}]


def answer(model: Model, page: Image.Image, question: str, tokens: int) -> Any:
    """What the run of an answer of so many tokens recorded."""
    stream = model.stream(asked(page, question), tokens, ignore_eos=True)
    list(stream)
    return stream.run


def reading(model: Model) -> Callable[[], dict[str, float]]:
    """Times a page that the model has not seen: seconds and tokens per second."""
    draw = np.random.default_rng(0)

    def once() -> dict[str, float]:
        page = Image.fromarray(draw.integers(0, 256, (PAGE[1], PAGE[0], 3), np.uint8))
        model.clear()
        first, second = answer(model, page, "What is the total?", ANSWER), answer(model, page, "Who sent it?", 1)
        return {
            "page": first.times.vision,
            "first token": first.times.first_token,
            "another question": second.times.first_token,
            "tokens per second": (ANSWER - 1) / first.times.decode,
        }

    return once


def exported(home: Path, work: Path, shape: str, options: argparse.Namespace) -> Path:
    """The bundle of a shape, kept in `home`."""
    out = home / f"{shape}-{options.blocks or 'all'}-{options.precision}"
    if not out.exists():
        source = make(shape, work / shape, layers=options.blocks, blocks=options.blocks)
        export_random(export_plan(source, out, precision=options.precision))
    return out


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, help="vision blocks and decoder layers (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--bundles", type=Path, help="directory that keeps the bundles for the next run")
    parser.add_argument("--only-export", action="store_true", help="make the bundles, measure nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        home = options.bundles or Path(directory)
        bundles = {shape: exported(home, Path(directory), shape, options) for shape in SHAPES}
        if options.only_export:
            return {shape: str(bundle) for shape, bundle in bundles.items()}
        models = {shape: load(bundle, threads=options.threads) for shape, bundle in bundles.items()}
        runs = take_turns({shape: reading(model) for shape, model in models.items()}, options.repeat)
    medians = {
        shape: {name: statistics.median(run[name] for run in found) for name in found[0]}
        for shape, found in runs.items()
    }
    result: dict[str, Any] = {"cpu": cpu(), "blocks": options.blocks or "all", "threads": options.threads}
    for shape, found in medians.items():
        result[shape] = {name: round(value, 3) for name, value in found.items()}
        result[shape][f"× {BASE}"] = {name: round(value / medians[BASE][name], 2) for name, value in found.items()}
        result[shape]["state MB"] = state(models[shape].manifest)
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=1, ensure_ascii=False))
