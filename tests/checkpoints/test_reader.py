"""The networks that are trained are those of transformers, and pages reach them as the product prepares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from calib_data.generator.prompts import locate, read
from calib_data.generator.simple import simple_page
from qvl_runtime.model import load
from tests.exporter.test_parity import oracle_inputs

from .pages import Sampler, cell_targets
from .reader import FAMILIES, Reader

both = pytest.mark.parametrize("family", FAMILIES)


@both
@pytest.mark.parametrize("seed", range(3))
def test_same_logits_as_transformers(family: str, seed: int, reader_bundle: Callable[[str, str], Path]) -> None:
    """Over a prompt of the trained checkpoint, whose pixels and ids the sampler and the runtime make alike."""
    oracle = AutoModelForImageTextToText.from_pretrained(FAMILIES[family].directory, dtype=torch.float32).eval()
    reader = Reader(FAMILIES[family], oracle.config.text_config.vocab_size)
    weights = {name: tensor for name, tensor in oracle.state_dict().items() if name != "lm_head.weight"}
    reader.load_state_dict(weights)
    sampler, page = Sampler(FAMILIES[family], 0, 1), simple_page(Random(seed))
    batch = sampler.collate([(page, read(page))], sampler.size(page))
    model = load(reader_bundle(family, "fp16"), threads=1)
    content = [{"type": "image", "image": page.image}, {"type": "text", "text": read(page).prompt}]
    prompt = model.prompt([{"role": "user", "content": content}])
    assert batch.ids[0, : len(prompt.ids)].tolist() == prompt.ids.tolist()
    with torch.no_grad():
        ours, features = reader(batch.images, batch.ids[:, : len(prompt.ids)], batch.image_start, 0)
        theirs = oracle(**oracle_inputs(model, prompt)).logits
    assert len(features) == 1 + model.manifest.llm.deepstack_layers
    assert torch.allclose(ours, theirs, atol=2e-3)


@both
def test_cells_hold_the_characters_in_them(family: str) -> None:
    """In reading order within a line, as far as there are slots; nearly all of a page's characters have one."""
    kept, written = 0, 0
    for seed in range(20):
        page, sampler = simple_page(Random(seed)), Sampler(FAMILIES[family], 0, 1)
        targets = cell_targets(page, sampler.size(page), sampler.cell)
        width, height = (side // sampler.cell for side in sampler.size(page))
        assert targets.shape[0] == width * height
        found = sorted(chr(code + 31) for code in targets.flatten().tolist() if code)
        there = sorted(character for character in page.text if not character.isspace())
        assert not set(found) - set(there)
        kept, written = kept + len(found), written + len(there)
    assert 0.97 * written < kept <= written


def test_boxes_in_thousandths() -> None:
    page = simple_page(Random(1))
    key = next(iter(page.fields))
    pixels, relative = (np.array(json.loads(locate(page, key, r).answers[0])["bbox_2d"]) for r in (False, True))
    sides = np.array(page.image.size * 2)
    assert np.abs(relative / 1000 * sides - pixels).max() <= 0.0005 * sides.max() + 1e-9
