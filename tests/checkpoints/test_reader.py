"""The networks that are trained are those of transformers, and pages reach them as the product prepares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

from calib_data.generator.prompts import locate, read
from calib_data.generator.simple import simple_page
from qvl_export import families
from qvl_runtime.model import load
from tests.exporter.test_parity import oracle_inputs

from . import transplant
from .cer import inputs
from .hybrid import STATE_DIM, GatedAttention, gated_delta_rule, unit
from .language import HIDDEN, Attention, rotary, text_positions
from .pages import Sampler, cell_targets
from .reader import FAMILIES, Reader

every = pytest.mark.parametrize("family", FAMILIES)
exported = pytest.mark.parametrize("family", [name for name in FAMILIES if name in families.available()])


@exported
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


@every
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


def test_the_delta_rule_is_the_recurrence_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 70, STATE_DIM, generator=generator) for _ in range(3))
    decay, beta = -torch.rand(2, 3, 70, generator=generator), torch.rand(2, 3, 70, generator=generator)
    ours = gated_delta_rule(unit(q), unit(k), v, decay, beta)
    swapped = [t.transpose(1, 2) for t in (q, k, v, decay, beta)]
    theirs, _ = torch_recurrent_gated_delta_rule(*swapped, use_qk_l2norm_in_kernel=True)
    assert torch.allclose(ours, theirs.transpose(1, 2), atol=1e-5)


def test_a_random_hybrid_reader_has_the_logits_of_transformers() -> None:
    """With norms that are not one and decays of all lengths."""
    family, generator = FAMILIES["qwen3_5"], torch.Generator().manual_seed(0)
    oracle = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(family.directory)).float().eval()
    for name, tensor in oracle.state_dict().items():
        if "norm" in name or name.endswith(("A_log", "dt_bias")):
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    reader = Reader(family, oracle.config.text_config.vocab_size)
    reader.load_state_dict({name: t for name, t in oracle.state_dict().items() if name != "lm_head.weight"})
    batch = next(Sampler(family, 0, 300).batches())
    given = inputs(batch, oracle.config.image_token_id)
    with torch.no_grad():
        ours, features = reader(batch.images, given["input_ids"], batch.image_start, 0)
        theirs = oracle(**given).logits
    assert len(features) == 1
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_transplanted_attention_attends_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a quarter of heads four times as wide, with gates of one half."""
    monkeypatch.setattr(transplant, "SMALL", 0.0)
    torch.manual_seed(0)
    narrow, wide = Attention(qk_norm=True), GatedAttention()
    theirs: dict[str, Tensor] = {f"a.{name}": tensor for name, tensor in narrow.state_dict().items()}
    ours = {f"b.{name}": tensor for name, tensor in wide.state_dict().items()}
    transplant.attention(theirs, ours, "a.", "b.")
    wide.load_state_dict({name.removeprefix("b."): tensor for name, tensor in ours.items()})
    x, axes = torch.randn(2, 40, HIDDEN), torch.tensor(FAMILIES["qwen3_5"].axes)
    rope = rotary(text_positions(40, 4, 5, 3), axes)
    assert torch.allclose(narrow(x, rope), wide(x, rope), atol=1e-5)
