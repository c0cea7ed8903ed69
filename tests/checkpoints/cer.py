"""Character error rate of a hybrid reader on the held-out pages, by transformers' own greedy decoding.

    python -m tests.checkpoints.cer [STATE] [--pages 400] [--zero-state]

STATE is the trainer's `state.pt`; without it the committed checkpoint answers. With `--zero-state` every recurrent
state and convolution tail is zero after the prompt, so that all that is left of it is the cache of full attention.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, DynamicCache

from calib_data.generator.page import Page
from calib_data.generator.prompts import Question
from tests.heldout import Item, character_error_rate, items

from .pages import IGNORE, Batch, Sampler
from .reader import FAMILIES
from .towers import MERGE

FAMILY = FAMILIES["qwen3_5"]


def model_of(state: Path | None) -> Any:
    """transformers' model with the weights of a state, rounded to bfloat16 as they are saved, or of the checkpoint."""
    if state is None:
        return AutoModelForImageTextToText.from_pretrained(FAMILY.directory, dtype=torch.float32).eval()
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(FAMILY.directory), dtype=torch.float32)
    saved = torch.load(state, weights_only=True, mmap=True)["model"]
    own = {name.removeprefix("reader."): t for name, t in saved.items() if name.startswith("reader.")}
    model.load_state_dict({name: t.bfloat16().float() for name, t in own.items()}, strict=False)
    model.tie_weights()
    return model.eval()


def batches(chosen: Iterable[Item], most: int = 32) -> Iterator[tuple[list[Item], Batch]]:
    """Questions whose pages and prompts have one size."""
    sampler, groups = Sampler(FAMILY, 0, 1), defaultdict(list)
    for item in chosen:
        with Image.open(item.image) as image:
            page = Page(image.convert("RGB"), "simple", "en", ())
        groups[sampler.size(page), item.prompt].append((item, page))
    for (size, prompt), group in groups.items():
        for start in range(0, len(group), most):
            some = group[start : start + most]
            pairs = [(page, Question(prompt, "ocr", ("",))) for _, page in some]
            yield [item for item, _ in some], sampler.collate(pairs, size)


def inputs(batch: Batch, image_id: int) -> dict[str, Tensor]:
    """The prompts alone, as transformers takes them."""
    ids = batch.ids[:, : int((batch.labels != IGNORE).any(0).nonzero()[0])]
    count, _, height, width = batch.images.shape
    patch = FAMILY.tower.patch
    h, w = height // (patch * MERGE), width // (patch * MERGE)
    cut = batch.images.view(count, 3, h, MERGE, patch, w, MERGE, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    pixels = cut.reshape(-1, 3, 1, patch, patch).expand(-1, -1, 2, -1, -1).flatten(1)
    grid = torch.tensor([[1, h * MERGE, w * MERGE]] * count)
    kinds = (ids == image_id).int()
    return {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}


class ZeroState:
    """A stopping criterion that never stops: the first time, after the prompt, it zeroes what is recurrent."""

    def __init__(self, cache: DynamicCache, layers: list[int]) -> None:
        self.cache, self.layers, self.done = cache, layers, False

    def __call__(self, ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        if not self.done:
            for layer in self.layers:
                self.cache.get_recurrent_state(layer, state_idx=0).zero_()
                self.cache.get_conv_state(layer, state_idx=0).zero_()
            self.done = True
        return torch.zeros(len(ids), dtype=torch.bool)


@torch.no_grad()
def answers(model: Any, batch: Batch, zero_state: bool) -> list[list[int]]:
    given, cache = inputs(batch, model.config.image_token_id), DynamicCache(config=model.config.text_config)
    kinds = model.config.text_config.layer_types
    recurrent = [index for index, kind in enumerate(kinds) if kind == "linear_attention"]
    watch = [ZeroState(cache, recurrent)] if zero_state else []
    found = model.generate(**given, past_key_values=cache, max_new_tokens=200, do_sample=False, stopping_criteria=watch)
    return [row.tolist() for row in found[:, given["input_ids"].shape[1] :]]


def read(state: Path | None, pages: int, zero_state: bool) -> float:
    """The character error rate of `Read the text.` about the first pages."""
    model, tokenizer = model_of(state), Sampler(FAMILY, 0, 1).tokenizer
    said, truths = [], []
    for some, batch in batches(items("ocr", pages)):
        rows = answers(model, batch, zero_state)
        said += [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        truths += [item.answer for item in some]
    return character_error_rate(said, truths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", nargs="?", type=Path)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--zero-state", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{100 * read(options.state, options.pages, options.zero_state):.1f} %")


if __name__ == "__main__":
    main()
