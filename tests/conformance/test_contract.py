"""The worked examples of docs/graph-contract.md are what the runtime computes."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy
import numpy as np
import pytest
from PIL import Image

from qvl_runtime.positions import (
    Grid,
    VisionSpan,
    interpolation,
    mrope_positions,
    ntk_alpha,
    patch_positions,
    window_layout,
)
from qvl_runtime.preprocess import normalization_table, patchify
from qvl_runtime.prune.blocks import kept_blocks
from qvl_runtime.resize import smart_resize
from qvl_runtime.sessions.feeds import cache_state

from .document import plain
from .images import tiny_geometry
from .test_vectors import integer_weights

CONTRACT = (Path(__file__).parents[2] / "docs" / "graph-contract.md").read_text("utf-8")
SECTION = CONTRACT.split("## Computing the inputs")[1].split("\n## ")[0]
EXAMPLE = re.compile(r"`([^`]+\([^`]*)` is\s+`([^`]+)`")
PARTS = ("Size", "Pixels", "Rows", "Interpolated", "Windows", "M-RoPE", "The cache", "Tokens of an answer")


def bicubic_weights(before: int, after: int) -> list[list[int]]:
    return [weights.tolist() for _, weights in integer_weights(before, after)]


NAMES: dict[str, Any] = {
    "Grid": Grid,
    "VisionSpan": VisionSpan,
    "bicubic_weights": bicubic_weights,
    "cache_state": cache_state,
    "interpolation": interpolation,
    "mrope_positions": mrope_positions,
    "ntk_alpha": ntk_alpha,
    "numpy": numpy,
    "patch_positions": patch_positions,
    "smart_resize": smart_resize,
    "window_layout": window_layout,
}


@pytest.mark.parametrize(("expression", "value"), EXAMPLE.findall(SECTION))
def test_worked_examples(expression: str, value: str) -> None:
    assert plain(eval(expression, dict(NAMES))) == plain(ast.literal_eval(value))


@pytest.mark.parametrize("part", PARTS)
def test_every_index_has_an_example(part: str) -> None:
    assert EXAMPLE.search(SECTION.split(f"### {part}")[1].split("\n### ")[0])


def test_the_example_of_patches() -> None:
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    patch = patchify([Image.fromarray(pixels)], tiny_geometry(), Grid(1, 2, 4)).pixel_values[0, 3]
    table = normalization_table(tiny_geometry())[0]
    assert patch[:4].tolist() == [table[pixels[row, column, 0]] for row in (2, 3) for column in (2, 3)]


def test_the_example_of_blocks() -> None:
    page = np.full((1, 1, 16, 16, 3), 255, np.uint8)
    page[:, :, 4:8, 4:8] = 0
    assert np.flatnonzero(kept_blocks(page, 4, 0.0)).tolist() == [0, 1, 3, 4, 5, 6, 9, 10, 12, 15]
    assert np.flatnonzero(kept_blocks(page, 4, 0.0, 0, corners=False)).tolist() == [0, 5, 6, 9]
