"""What int4 and int8 take by size of the model: measured for one layer of one model, extrapolated to the others.

    python -m tests.bench.quantize_guide [--pages 96] [--cores 2]

The measurement is `python -m tests.bench.quantize_memory qwen2-vl-2b --layers 1 --pages 32 --threads 2`. Observing,
smoothing and encoding grow with the pages and with the weights of a layer, GPTQ with rows · columns² + columns³ of its
linears, and all with the number of layers; memory with the square of the widest linear's columns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

CONFIGS = Path(__file__).parents[1] / "configs"
MEASURED = "qwen2-vl-2b"
PAGES, CORES = 32, 2
VISION_SECONDS, LLM_SECONDS, GPTQ_SECONDS = 55.0 + 11.0 + 25.0, 65.0, 55.0
"""Per layer: the tower observed, smoothed and encoding; the language model observed; GPTQ of its linears."""
BASE_GB, SQUARE_BYTES = 1.0, 32
"""Of the 3.6 GB that were measured: Hessian, its permuted copy and three float64 matrices are 32 bytes per square."""


class Shape(NamedTuple):
    """Linears (rows, columns) of a decoder layer, weights of a vision block, and how many there are of each."""

    linears: list[tuple[int, int]]
    block: int
    layers: int
    blocks: int

    @property
    def weights(self) -> int:
        return sum(rows * columns for rows, columns in self.linears)

    @property
    def gptq(self) -> float:
        """Relative work; linears that read the same input share a Hessian, but each is swept."""
        return float(sum(rows * columns**2 for rows, columns in self.linears) + sum(c**3 for c in self._inputs))

    @property
    def widest(self) -> int:
        return max(self._inputs)

    @property
    def _inputs(self) -> set[int]:
        return {columns for _, columns in self.linears}


def shape(name: str) -> Shape:
    """That of a published configuration."""
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    text, vision = config.get("text_config", config), config["vision_config"]
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    head = text.get("head_dim") or hidden // heads
    qkv = (heads + 2 * text["num_key_value_heads"]) * head
    width = vision.get("embed_dim") or vision["hidden_size"]
    gated = 3 if name.startswith("qwen2.5") else 2
    block = 4 * width**2 + gated * width * (vision.get("intermediate_size") or vision["mlp_ratio"] * width)
    linears = [(qkv, hidden), (hidden, heads * head), (2 * inner, hidden), (hidden, inner)]
    return Shape(linears, block, text["num_hidden_layers"], vision["depth"])


def hours(found: Shape, pages: int, cores: int, gptq: bool) -> float:
    """Of a whole export."""
    known = shape(MEASURED)
    vision = found.blocks * VISION_SECONDS * found.block / known.block
    llm = found.layers * LLM_SECONDS * found.weights / known.weights
    rounding = found.layers * GPTQ_SECONDS * found.gptq / known.gptq if gptq else 0.0
    return ((vision + llm) * pages / PAGES + rounding) * CORES / cores / 3600


def gigabytes(found: Shape) -> float:
    """Peak resident memory of int4."""
    return BASE_GB + SQUARE_BYTES * found.widest**2 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=96)
    parser.add_argument("--cores", type=int, default=CORES)
    arguments = parser.parse_args()
    print("| shape | layers + blocks | int8, hours | int4, hours | int4, peak GB |\n|---|---|---|---|---|")
    for path in sorted(CONFIGS.glob("*.json")):
        if "a3b" in path.stem:  # experts are another matter
            continue
        found = shape(path.stem)
        times = [f"{hours(found, arguments.pages, arguments.cores, gptq):.1f}" for gptq in (False, True)]
        cells = [path.stem, f"{found.layers} + {found.blocks}", *times, f"{gigabytes(found):.1f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
