"""Batches of simple pages with questions, answers and the characters in every cell, for the trainer."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from calib_data.generator.page import Page
from calib_data.generator.prompts import Question, locate, read, what_is
from calib_data.generator.simple import simple_page
from qvl_runtime.resize import smart_resize

from .reader import Family
from .towers import MERGE

LINES_A_CELL, SLOTS_A_LINE = 2, 6
IGNORE = -100


@dataclass(frozen=True)
class Batch:
    images: Tensor
    ids: Tensor
    labels: Tensor
    cells: Tensor
    image_start: int


def cell_targets(page: Page, size: tuple[int, int], cell: int) -> Tensor:
    """[cells, lines · slots] classes of the characters whose centers fall in each cell of the resized page.

    Class 0 is blank, 1 + ord − 32 a printable.
    """
    width, height = size[0] // cell, size[1] // cell
    across, down = size[0] / page.image.width / cell, size[1] / page.image.height / cell
    cells: dict[int, list[list[int]]] = {}
    for line in page.lines:
        found: dict[int, list[int]] = {}
        for span in line:
            for character, (x, y) in zip(span.text, span.centers, strict=True):
                if character != " ":
                    row = min(int(y * down), height - 1)
                    found.setdefault(row * width + min(int(x * across), width - 1), []).append(ord(character) - 31)
        for index, classes in found.items():
            cells.setdefault(index, []).append(classes[:SLOTS_A_LINE])
    target = torch.zeros(width * height, LINES_A_CELL, SLOTS_A_LINE, dtype=torch.long)
    for index, rows in cells.items():
        for line_index, classes in enumerate(rows[:LINES_A_CELL]):
            target[index, line_index, : len(classes)] = torch.tensor(classes)
    return target.flatten(1)


class Sampler:
    """Batches of about `tokens` tokens, of pages that have one size after the family's preprocessing."""

    def __init__(self, family: Family, seed: int, tokens: int) -> None:
        self.rng, self.tokens, self.relative_boxes = random.Random(seed), tokens, family.relative_boxes
        self.tokenizer = Tokenizer.from_file(str(family.directory / "tokenizer.json"))
        self.preprocessing = json.loads((family.directory / "preprocessor_config.json").read_text("utf-8"))
        self.cell = family.tower.patch * MERGE
        self.image_id = self.tokenizer.token_to_id("<|image_pad|>")
        self.pad_id = self.tokenizer.token_to_id("<|endoftext|>")
        self.prefix = self.encode(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        )
        self.questions = 0.2

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def question(self, page: Page) -> Question:
        draw = self.rng.random()
        if not page.fields or draw > self.questions:
            return read(page)
        key = self.rng.choice(list(page.fields))
        return what_is(page, key) if draw < 0.75 * self.questions else locate(page, key, self.relative_boxes)

    def size(self, page: Page) -> tuple[int, int]:
        """Width and height after resizing."""
        bounds = self.preprocessing["min_pixels"], self.preprocessing["max_pixels"]
        height, width = smart_resize(page.image.height, page.image.width, self.cell, *bounds)
        return width, height

    def batches(self) -> Iterator[Batch]:
        """Nearly all pages are of the hardest level."""
        pools: dict[tuple[int, int], list[tuple[Page, Question]]] = {}
        while True:
            draw = self.rng.random()
            page = simple_page(self.rng, 0 if draw < 0.02 else 1 if draw < 0.06 else 2)
            size = self.size(page)
            pool = pools.setdefault(size, [])
            pool.append((page, self.question(page)))
            if len(pool) * (size[0] * size[1] // self.cell**2 + 75) >= self.tokens:
                yield self.collate(pools.pop(size), size)

    def collate(self, items: list[tuple[Page, Question]], size: tuple[int, int]) -> Batch:
        count = size[0] * size[1] // self.cell**2
        prompts = [
            [*self.prefix, *[self.image_id] * count]
            + self.encode(f"<|vision_end|>{question.prompt}<|im_end|>\n<|im_start|>assistant\n")
            for _, question in items
        ]
        answers = [self.encode(f"{question.answers[0]}<|im_end|>") for _, question in items]
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.full((len(items), longest), self.pad_id)
        labels = torch.full((len(items), longest), IGNORE)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        cells = torch.stack([cell_targets(page, size, self.cell) for page, _ in items])
        return Batch(self.images([page for page, _ in items], size), ids, labels, cells, len(self.prefix))

    def images(self, pages: list[Page], size: tuple[int, int]) -> Tensor:
        """[pages, 3, height, width], resized and normalized."""
        resized = [np.asarray(page.image.resize(size, Image.Resampling.BICUBIC)) for page in pages]
        pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous().float()
        mean, std = (torch.tensor(self.preprocessing[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
        return pixels.div_(255).sub_(mean).div_(std)
