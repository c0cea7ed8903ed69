"""Kinds of held-out pages on which leaving out blank blocks is better or worse than scaling images down.

    python -m tests.bench.prune_kinds [--pages N] [--family qwen2_5_vl] [--rule scan]

A row a kind and checkpoint: its pages, image tokens left out, CER of whole pages, and the differences in CER, with 95 %
intervals (paired bootstrap over pages): the rule minus whole pages, and the rule minus images scaled down to as many
tokens or a few more, and to as many or a few less (`tests.bench.prune`). The trained checkpoints read no other pages
than those of the held-out set, so that kinds are what such a page may be like.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from calib_data.generator.degrade import degrade
from calib_data.generator.page import Page
from qvl_export import ExportPlan, export
from qvl_runtime.model import Model, load
from tests.checkpoints.reader import FAMILIES
from tests.heldout import Item, items

from .prune import Drawing, Way, difference, drawn, read

FAINT = 0.25
"""What is left of the contrast of faint print."""


@dataclass(frozen=True)
class Kind:
    """Pages of the set, and how they are shown."""

    among: Callable[[Item], bool] = lambda item: True
    draw: Drawing = drawn


def lines(least: int, most: int) -> Kind:
    """Pages of so many lines."""
    return Kind(lambda item: least <= item.answer.count("\n") + 1 <= most)


def ruled(item: Item) -> bool:
    """Whether the page has a line along its lower edge (`calib_data/generator/simple.py`)."""
    row = np.asarray(drawn(item).convert("L"), int)[-3]
    return bool((row[2:-3] < row[0] - 20).all())


def scanned(item: Item) -> Image.Image:
    """The page with slant, blur, uneven light, less contrast or noise, and as JPEG."""
    return degrade(Page(drawn(item), "simple", "en", ()), Random(item.image.name)).image.convert("RGB")


def faint(item: Item) -> Image.Image:
    """The page with a quarter of its contrast; the paper, its most frequent color, stays."""
    page = drawn(item)
    paper = max(page.getcolors(page.width * page.height) or [])[1]
    return Image.blend(Image.new("RGB", page.size, paper), page, FAINT)


KINDS: Mapping[str, Kind] = {
    "up to 3 lines": lines(1, 3),
    "4 or 5 lines": lines(4, 5),
    "6 lines": lines(6, 99),
    "a ruled line below": Kind(ruled),
    "no ruled line": Kind(lambda item: not ruled(item)),
    "faint print": Kind(draw=faint),
    "as by a scanner": Kind(draw=scanned),
    "14 white pixels around": Kind(draw=partial(drawn, margin=14)),
    "28 white pixels around": Kind(draw=partial(drawn, margin=28)),
    "64 white pixels around": Kind(draw=partial(drawn, margin=64)),
}


def row(model: Model, questions: Sequence[Item], kind: Kind, rule: str) -> list[str]:
    """The cells of a kind behind its name."""
    chosen = [item for item in questions if kind.among(item)]
    ways = ("off", rule, f"pixels:{rule}", f"fewer:{rule}")
    whole, pruned, more, fewer = (read(model, chosen, Way.of(way), kind.draw) for way in ways)
    left = [f"{100 * (1 - each.tokens / whole.tokens):.1f} %" for each in (pruned, more, fewer)]
    losses = [difference(other, pruned) for other in (whole, more, fewer)]
    return [str(len(chosen)), *left, f"{100 * whole.rate:.1f} %", *losses]


def rows(family: str, questions: Sequence[Item], rule: str) -> Iterator[list[str]]:
    """The rows of a checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        export(ExportPlan(FAMILIES[family].directory, Path(directory) / "b"))
        with load(Path(directory) / "b", threads=1) as model:
            for name, kind in KINDS.items():
                yield [family, name, *row(model, questions, kind, rule)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--rule", default="scan")
    options = parser.parse_args()
    questions = list(items("ocr"))[: options.pages]
    head = ("checkpoint", "kind", "pages", "left out", "scaled: more", "scaled: fewer", "CER, whole")
    print(*head, "pruned − whole", "pruned − scaled to more", "pruned − scaled to fewer", sep=" | ")
    for family in options.family or FAMILIES:
        for cells in rows(family, questions, options.rule):
            print(*cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
