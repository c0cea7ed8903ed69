"""Time to the first token with and without blank paper, on clean pages and on scans (`prune_pages`).

    python -m tests.bench.prune_speed [LIST …] [--bundle BUNDLE] [--threads 2] [--repeat 1] [--pages N]

Without `--bundle` a random one of the Qwen2-VL-2B shape is made first, of 8 vision blocks and 8 decoder layers
(`--blocks`), in `--precision`. Rules take turns page by page, nothing is cached. Printed are, for each list and rule,
medians over pages of seconds, of their ratio to the whole page, and of the time in which the prompt is built; the ratio
that the operations of both graphs predict; and, for the whole list, the ratio of all seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from calib_data.generator.real import DocumentMissing
from qvl_runtime.manifest import Manifest
from qvl_runtime.model import Model, load
from tests.plans import export_plan

from .prune_pages import LISTS, pages
from .random_bundle import export_random
from .random_checkpoint import make

SHAPE = "qwen2-vl-2b"
RULES = ("off", "exact", "scan")
WIDTHS = {"vision": (1280, 5120, 2), "llm": (1536, 8960, 3)}
"""Hidden size, size of the MLP and its matrices, of SHAPE."""


@dataclass(frozen=True)
class Timing:
    """Seconds until the prompt is built and until the first token; image tokens seen and left out."""

    built: float
    first: float
    seen: int
    left_out: int
    prompt: int


def first_token(model: Model, page: Image.Image, rule: str) -> Timing:
    parts = [{"type": "image", "image": page, "prune": rule}, {"type": "text", "text": "Read the text."}]
    model.clear()
    began = time.perf_counter()
    stream = model.stream([{"role": "user", "content": parts}], max_new_tokens=1)
    built = time.perf_counter() - began
    list(stream)
    counts = stream.run.counts
    return Timing(built, time.perf_counter() - began, counts.image, counts.pruned, counts.prompt)


def operations(manifest: Manifest, blocks: int, timing: Timing) -> float:
    """Products of both graphs: 4 · width² + MLP per token and layer, 2 · width · tokens of attention."""
    tokens = {"vision": timing.seen * manifest.image.spatial_merge_size**2, "llm": timing.prompt}
    costs = []
    for name, (width, inner, matrices) in WIDTHS.items():
        causal = 1 if name == "vision" else 0.5
        each = 4 * width**2 + matrices * width * inner + 2 * width * tokens[name] * causal
        costs.append(blocks * each * tokens[name])
    return sum(costs)


def measure(model: Model, chosen: Mapping[str, Image.Image], repeat: int, blocks: int) -> dict[str, Any]:
    """Figures by rule over the pages."""
    first_token(model, next(iter(chosen.values())), "off")
    rows = [{rule: first_token(model, page, rule) for rule in RULES} for page in chosen.values() for _ in range(repeat)]
    return {rule: summary(rows, rule, model.manifest, blocks) for rule in RULES}


def summary(rows: list[dict[str, Timing]], rule: str, manifest: Manifest, blocks: int) -> dict[str, float]:
    pairs = [(row["off"], row[rule]) for row in rows]
    foreseen = [operations(manifest, blocks, whole) / operations(manifest, blocks, part) for whole, part in pairs]
    return {
        "left_out": round(sum(p.left_out for _, p in pairs) / sum(p.left_out + p.seen for _, p in pairs), 3),
        "build_seconds": round(statistics.median(part.built for _, part in pairs), 3),
        "first_token_seconds": round(statistics.median(part.first for _, part in pairs), 3),
        "times_faster": round(statistics.median(whole.first / part.first for whole, part in pairs), 2),
        "least_times_faster": round(min(whole.first / part.first for whole, part in pairs), 2),
        "foreseen_times_faster": round(statistics.median(foreseen), 2),
        "whole_list_times_faster": round(sum(w.first for w, _ in pairs) / sum(p.first for _, p in pairs), 2),
    }


def random_bundle(here: Path, blocks: int, precision: str) -> Path:
    source = make(SHAPE, here / "checkpoint", layers=blocks, blocks=blocks)
    export_random(export_plan(source, here / "bundle", precision=precision))
    return here / "bundle"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="*", metavar="LIST", help=f"of {', '.join(LISTS)}")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--blocks", type=int, default=8, help="of the bundle too, if it is given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--pages", type=int, help="only the first of each list")
    options = parser.parse_args()
    try:
        chosen = {name: dict(list(pages(name).items())[: options.pages]) for name in options.lists or LISTS}
    except DocumentMissing as error:
        raise SystemExit(f"SKIPPED, nothing was measured: {error}") from error
    with tempfile.TemporaryDirectory() as directory:
        bundle = options.bundle or random_bundle(Path(directory), options.blocks, options.precision)
        with load(bundle, threads=options.threads) as model:
            found = {name: measure(model, some, options.repeat, options.blocks) for name, some in chosen.items()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
