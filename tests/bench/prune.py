"""What leaving out blank blocks saves and costs the trained checkpoints, on held-out pages.

    python -m tests.bench.prune [--pages N] [--family qwen2_5_vl] [--margin PIXELS] [--rules off,exact,…]

A row a rule: share of image tokens left out, CER of `Read the text.`, its difference from the first rule with a 95 %
interval (paired bootstrap over pages). Rules are those of `load(prune=…)`, `RULE:corners=no` for the rule without
corners (that of the paper), and images scaled down instead: `pixels:RULE` to as many tokens as the rule leaves or a few
more, `fewer:RULE` to as many or a few less. With `--margin` pages get that much white paper around them. With
`--frames` every page is a video of that many frames with `--grain` of noise, so that a temporal patch is predicted by
the one before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageOps
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qvl_export import ExportPlan, export
from qvl_export.evaluate.analysis.statistics import PairedScores, bootstrap, percentile_interval
from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.model import Model, load
from qvl_runtime.preprocess import resized_grid
from qvl_runtime.prompts import selection
from qvl_runtime.prune.blocks import kept_blocks
from tests.checkpoints.reader import FAMILIES
from tests.heldout import Item, items

LIMIT = 512
Drawing = Callable[[Item], Image.Image]
RULES = ("off", "exact:corners=no", "exact", "scan:corners=no", "scan", "pixels:exact", "pixels:scan")


@dataclass(frozen=True)
class Outcome:
    """Of one rule: edits and reference length of every page, image tokens in all and those left out, seconds."""

    edits: list[int]
    lengths: list[int]
    tokens: int
    pruned: int
    seconds: float

    @property
    def rate(self) -> float:
        return sum(self.edits) / sum(self.lengths)


@dataclass(frozen=True)
class Film:
    """How pages become videos: none if there are no `frames`."""

    frames: int = 0
    grain: float = 0.0

    def part(self, page: Image.Image) -> dict[str, Any]:
        """The page as a part of a message: frames, if there are any, keep its size and have noise of their own."""
        if not self.frames:
            return {"type": "image", "image": page}
        rng, pixels = np.random.default_rng(0), np.asarray(page, np.float32)
        noises = (rng.normal(0, self.grain, pixels.shape[:2])[..., None] for _ in range(self.frames))
        frames = [Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8)) for noise in noises]
        return {"type": "video", "video": frames, "resized_width": page.width, "resized_height": page.height}


@dataclass(frozen=True)
class Way:
    """A rule as given on the command line."""

    prune: str | float
    corners: bool = True
    scaled: Literal["", "pixels", "fewer"] = ""

    @classmethod
    def of(cls, text: str) -> Way:
        first, _, second = text.partition(":")
        if first == "pixels" or first == "fewer":
            return cls(second, scaled=first)
        return cls(first, second != "corners=no")

    def content(self, model: Model, page: Image.Image, prompt: str, film: Film) -> list[dict[str, Any]]:
        """The message about a page under this rule."""
        image: dict[str, Any] = {**film.part(page), "prune": self.prune}
        messages = [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]
        if self.scaled:
            tokens = model.prompt(messages).placed[0].span.tokens
            image |= {"max_pixels": self._bound(page.size, tokens, model.manifest.image), "prune": None}
        return messages

    def _bound(self, size: tuple[int, int], tokens: int, geometry: ImageGeometry) -> int:
        if self.scaled == "pixels":
            return smallest(size, tokens, geometry)
        return max(smallest(size, tokens + 1, geometry) - 1, geometry.min_pixels)


def smallest(size: tuple[int, int], tokens: int, geometry: ImageGeometry) -> int:
    """The lowest bound on pixels that leaves at least so many image tokens."""
    low, high = 1, geometry.max_pixels
    while low < high:
        middle = (low + high) // 2
        enough = resized_grid(size, 1, geometry, middle).tokens(geometry.spatial_merge_size) >= tokens
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def drawn(item: Item, margin: int = 0) -> Image.Image:
    """The page, with white paper around it."""
    with Image.open(item.image) as page:
        return ImageOps.expand(page.convert("RGB"), margin, "white")


def read(model: Model, questions: Sequence[Item], way: Way, draw: Drawing = drawn, film: Film = Film()) -> Outcome:
    """Reads all pages, as `draw` shows them, under a rule."""
    choose = kept_blocks if way.corners else partial(kept_blocks, corners=False)
    edits, tokens, pruned, began = [], 0, 0, time.perf_counter()
    with patch.object(selection, "kept_blocks", choose):
        for item in track(questions, str(way.prune), transient=True):
            stream = model.stream(way.content(model, draw(item), item.prompt, film), LIMIT)
            edits.append(Levenshtein.distance("".join(stream), item.answer))
            tokens, pruned = tokens + stream.run.counts.image, pruned + stream.run.counts.pruned
    return Outcome(edits, [len(item.answer) for item in questions], tokens, pruned, time.perf_counter() - began)


def difference(reference: Outcome, other: Outcome) -> str:
    """Points of CER and their interval."""
    pairs = PairedScores(np.array([reference.edits, other.edits], float), np.array([reference.lengths] * 2, float))
    found = percentile_interval(bootstrap(pairs))
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * pairs.difference():+.2f} points ({low:.2f} to {high:.2f})"


def rows(family: str, questions: Sequence[Item], rules: Sequence[str], margin: int, film: Film) -> Iterator[list[str]]:
    """The table's rows for a family."""
    with tempfile.TemporaryDirectory() as directory:
        export(ExportPlan(FAMILIES[family].directory, Path(directory) / "b"))
        first: Outcome | None = None
        with load(Path(directory) / "b", threads=1) as model:
            for rule in rules:
                found = read(model, questions, Way.of(rule), partial(drawn, margin=margin), film)
                first = first or found
                left = 1 - found.tokens / (first.tokens + first.pruned)
                cells = [f"{100 * left:.1f} %", f"{100 * found.rate:.2f} %", difference(first, found)]
                yield [family, rule, *cells, f"{found.seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--margin", type=int, default=0)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--grain", type=float, default=0.0)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--rules", default=",".join(RULES))
    options = parser.parse_args()
    film = Film(options.frames, options.grain)
    questions = list(items("ocr"))[options.first : options.first + options.pages]
    table = Table("checkpoint", "rule", "fewer tokens", "CER", "difference", "seconds", box=None)
    for family in options.family or FAMILIES:
        for row in rows(family, questions, options.rules.split(","), options.margin, film):
            print(*row, sep=" | ", flush=True)
            table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
