"""Our GPTQ loses no more than GPTQModel 7.6.0's, on the same weights, inputs and settings.

Its errors were stored by `against_gptqmodel.py`. `python -m tests.quant.test_against_gptqmodel` prints the comparison.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from qvl_export.qtensor import QuantFormat
from qvl_export.quant.gptq.solver import gptq, round_to_nearest
from tests.quant.against_gptqmodel import BLOCKS, RESULTS
from tests.quant.layers import Layer, random_layers, reference_layers

THEIRS = json.loads(RESULTS.read_text())["errors"]
WORST = 1.01


def errors(layer: Layer, block: int) -> tuple[float, float]:
    """Ours, and of round-to-nearest."""
    ours, nearest = (
        gptq(layer.weight, layer.hessian, QuantFormat(4, block)),
        round_to_nearest(layer.weight, QuantFormat(4, block)),
    )
    return layer.error(ours.dequantize()), layer.error(nearest.dequantize())


def check(layers: Iterator[Layer]) -> None:
    for layer in layers:
        for block in BLOCKS:
            ours, nearest = errors(layer, block)
            theirs = THEIRS[layer.name][str(block)]
            assert ours <= WORST * min(theirs.values()), (layer.name, block, ours, theirs)
            assert ours <= nearest, (layer.name, block)


def test_random_layers() -> None:
    check(random_layers())


@pytest.mark.slow
def test_layers_of_the_reference_checkpoint() -> None:
    check(reference_layers())


def main() -> None:
    """A line a block size and way: geometric mean and maximum of our error over theirs."""
    for title, layers in (("random", list(random_layers())), ("reference", list(reference_layers()))):
        for block in BLOCKS:
            ratios = defaultdict(list)
            for layer in layers:
                ours, nearest = errors(layer, block)
                for way, theirs in (*THEIRS[layer.name][str(block)].items(), ("round-to-nearest", nearest)):
                    ratios[way].append(ours / theirs)
            for way, values in ratios.items():
                mean = np.exp(np.mean(np.log(values)))
                print(f"| {title} | {block} | {way} | {mean:.3f} | {max(values):.3f} |", flush=True)


if __name__ == "__main__":
    main()
