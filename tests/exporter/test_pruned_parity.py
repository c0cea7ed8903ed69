"""L2 with blocks left out: the graphs against transformers, which is given the same patches with their own places.

Its towers take positions, bounds of attention and windows from the caller; here they are those of its own functions for
the whole grid, without the patches that are left out.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from qvl_runtime.answers.encode import encode
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.model import Model
from qvl_runtime.prompts.prompt import PlacedMedia, Prompt
from qvl_runtime.prune.kept import Kept
from tests.conftest import Loader
from tests.exporter.test_parity import Oracle, assert_close, shapes
from tests.oracles.tiny import FREE_SIZES

TARGETS = [
    ("cpu", "fp32"),
    ("portable", "fp32"),
    ("cuda", "fp16"),
    ("cpu", "fp16"),
    ("openvino", "fp32"),
    ("web", "fp16"),
]


def spotted(width: int, height: int, seed: int, spots: int) -> Image.Image:
    """White paper with a few spots of noise."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 255, np.uint8)
    for _ in range(spots):
        y, x = rng.integers(0, height - 20), rng.integers(0, width - 20)
        pixels[y : y + 20, x : x + 20] = rng.integers(0, 256, (20, 20, 3))
    return Image.fromarray(pixels)


def image(*arguments: int) -> dict[str, Any]:
    return {"type": "image", "image": spotted(*arguments)}


def moving() -> dict[str, Any]:
    """A video whose temporal patches keep different blocks; the last two the same."""
    still = spotted(180, 150, 3, 2)
    moved = still.copy()
    moved.paste(spotted(40, 40, 4, 4), (90, 90))
    return {"type": "video", "video": [still, still, moved, moved, moved, moved, moved, moved], "fps": 1.5}


class Encoded(SimpleNamespace):
    """What transformers' towers return, as far as its language models read it."""

    def to_tuple(self) -> tuple[Any, ...]:
        return self.pooler_output, self.deepstack_features


TEXT = {"type": "text", "text": "Read the text."}
CONTENTS = {
    "image": [image(400, 300, 1, 3), TEXT],
    "images": [image(90, 420, 2, 2), TEXT, image(56, 56, 5, 1), image(310, 240, 6, 4), TEXT],
    "video": [moving(), TEXT],
    "both": [image(200, 200, 7, 1), moving(), TEXT],
}


def both_prompts(model: Model, content: list[dict[str, Any]]) -> tuple[Prompt, Prompt]:
    """The prompt without and with blocks left out."""
    messages = [{"role": "user", "content": content}]
    pruned = [{"role": "user", "content": [{**p, "prune": "exact"} if p["type"] != "text" else p for p in content]}]
    return model.prompt(messages), model.prompt(pruned)


def theirs(visual: Any, placed: PlacedMedia, model: Model) -> list[np.ndarray]:
    """Features of the kept blocks, and DeepStack features, by transformers' tower."""
    geometry, grid = model.manifest.image, placed.grid
    merge, cells = geometry.spatial_merge_size, placed.grid.h * placed.grid.w // geometry.spatial_merge_size**2
    thw, unit = torch.tensor([[grid.t, grid.h, grid.w]]), merge * merge
    kept = placed.kept or Kept((tuple(range(cells)),) * grid.t)
    flat = torch.tensor(kept.flat(0, grid.t, cells))
    patches = (flat[:, None] * unit + torch.arange(unit)).ravel()
    counts = torch.tensor([unit * len(frame) for frame in kept.frames])
    extra = {
        "position_ids": get_vision_position_ids(thw, merge)[patches],
        "cu_seqlens": torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int(),
    }
    if geometry.window:
        extra |= windows(visual, thw, flat, unit)
    if geometry.position_table:
        indices, weights = get_vision_interpolation_indices_and_weights(
            thw,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        extra |= {"interp_indices": indices[patches], "interp_weights": weights[patches]}
    pixels = placed.patches(geometry).pixel_values
    found = visual(torch.from_numpy(pixels.reshape(-1, pixels.shape[-1]))[patches], grid_thw=thw, **extra)
    return [x.numpy() for x in (found.pooler_output, *(getattr(found, "deepstack_features", None) or []))]


def windows(visual: Any, thw: torch.Tensor, kept: torch.Tensor, unit: int) -> dict[str, torch.Tensor]:
    """The order of kept cells by windows, and the windows' bounds without the others."""
    order, bounds = get_vision_window_index(
        thw, spatial_merge_size=2, window_size=visual.window_size, patch_size=visual.patch_size
    )
    window_of = torch.bucketize(torch.arange(len(order)), (bounds // unit)[1:], right=True)
    there = torch.isin(order, kept)
    lengths = torch.bincount(window_of[there]) * unit
    lengths = lengths[lengths > 0]
    return {
        "window_index": torch.searchsorted(kept, order[there]),
        "cu_window_seqlens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", FREE_SIZES)
@pytest.mark.parametrize(("target", "precision"), TARGETS)
@pytest.mark.parametrize("content", CONTENTS)
@shapes
def test_features_and_logits(
    oracle: Oracle, model: Loader, family: str, shape: str, target: str, precision: str, content: str
) -> None:
    """Features, then the logits of the whole prompt, whose positions are those of the kept tokens in the whole one."""
    ours, reference = model(family, shape, precision, target), oracle(family, shape)
    whole, prompt = both_prompts(ours, CONTENTS[content])
    assert len(prompt.ids) < len(whole.ids)
    stays = kept_tokens(whole, prompt)
    assert np.array_equal(whole.ids[stays], prompt.ids)
    assert np.array_equal(whole.positions[:, stays], prompt.positions)
    with torch.no_grad():
        found = features_by_kind(ours, reference, prompt, precision)
        expected = logits(reference, prompt, found)
    assert_close(ours.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats()), expected, precision)


def kept_tokens(whole: Prompt, pruned: Prompt) -> np.ndarray:
    """Which tokens of the whole prompt the other still has, from the kept cells of each vision block."""
    stays = np.ones(len(whole.ids), bool)
    for all_of_it, some in zip(whole.placed, pruned.placed, strict=True):
        if some.span.kept is not None:
            block = np.zeros(all_of_it.span.tokens, bool)
            block[list(some.span.kept)] = True
            stays[all_of_it.span.start : all_of_it.span.end] = block
    return stays


def features_by_kind(model: Model, reference: Any, prompt: Prompt, precision: str) -> dict[str, Encoded]:
    """Transformers' features of images and of videos, after ours were compared with them."""
    found: dict[str, Encoded] = {}
    for item in prompt.placed:
        if item.first_row:
            continue
        rows = theirs(reference.model.visual, item, model)
        for ours, expected in zip(encode(model.engine.encode, item, model.manifest.image), rows, strict=True):
            assert_close(ours, expected, precision)
        kind = found.setdefault(item.media.kind, Encoded(pooler_output=[], deepstack_features=[]))
        kind.pooler_output.append(torch.from_numpy(rows[0]))
        kind.deepstack_features.append([torch.from_numpy(row) for row in rows[1:]])
    for kind in found.values():
        kind.deepstack_features = list(zip(*kind.deepstack_features, strict=True))  # a layer after the other
    return found


def logits(reference: PreTrainedModel, prompt: Prompt, found: dict[str, Encoded]) -> np.ndarray:
    """Transformers' logits of every token, by its language model."""
    ids = torch.from_numpy(prompt.ids)[None]
    answer = reference(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.from_numpy(np.ascontiguousarray(prompt.positions))[:, None],
        mm_encoder_outputs=found,
    )
    result: np.ndarray = answer.logits[0].numpy()
    return result


@pytest.mark.parametrize("family", FREE_SIZES)
def test_frames_that_keep_the_same_are_one_call(model: Loader, family: str) -> None:
    """And the features of a video are those of its temporal patches one by one."""
    tiny = model(family, "small", "fp32")
    _, prompt = both_prompts(tiny, CONTENTS["video"])
    kept = prompt.placed[0].kept
    assert kept is not None
    groups = [frames for frames, _ in kept.groups()]
    assert groups == [[0], [1], [2, 3]]
    features = encode(tiny.engine.encode, prompt.placed[0], tiny.manifest.image)
    assert features.shape[1] == kept.tokens == sum(map(len, kept.frames))
