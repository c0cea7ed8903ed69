"""How many tokens GPTQ needs to be better than rounding: output error on other tokens, over that of round-to-nearest.

    python -m tests.bench.expert_tokens

The gated MLPs of the reference checkpoint stand for experts; tokens are drawn from those of ten calibration pages.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from qvl_export.qtensor import QuantFormat
from qvl_export.quant.gptq.solver import gptq, round_to_nearest
from tests.quant.layers import Layer, reference_layers

PAGES, TEST_TOKENS, FORMAT = 10, 2000, QuantFormat(4, 32)
PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""Calibration tokens, as parts of the columns."""


def ratios(layer: Layer, rng: np.random.Generator) -> list[float]:
    """GPTQ's error over rounding's for each of PARTS."""
    inputs = rng.permutation(layer.inputs)
    test, rest = replace(layer, inputs=inputs[:TEST_TOKENS]), inputs[TEST_TOKENS:]
    nearest = test.error(round_to_nearest(layer.weight, FORMAT).dequantize())
    seen = [rest[: int(part * rest.shape[1])] for part in PARTS]
    return [test.error(gptq(layer.weight, x.T @ x, FORMAT).dequantize()) / nearest for x in seen]


def main() -> None:
    rng, found = np.random.default_rng(0), defaultdict(list)
    for layer in reference_layers(PAGES):
        kind = layer.name.rpartition(".")[2]
        if kind in ("gate_proj", "down_proj"):
            found[kind, layer.inputs.shape[1]].append(ratios(layer, rng))
    for (kind, columns), rows in found.items():
        for part, column in zip(PARTS, np.transpose(rows), strict=True):
            tokens = int(part * columns)
            print(f"{kind}, {columns} columns, {tokens} tokens: {column.mean():.2f}, highest {column.max():.2f}")


if __name__ == "__main__":
    main()
