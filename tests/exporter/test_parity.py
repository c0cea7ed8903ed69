"""L2: every stage of the exported graphs against transformers, on random tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel

from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.model import Model
from qvl_runtime.positions import Grid
from qvl_runtime.preprocess import patchify
from qvl_runtime.prompts.prompt import Prompt
from tests.conftest import GRAPH_TARGETS, Loader
from tests.oracles.tiny import FAMILIES, FREE_SIZES, SHAPES, VIDEO

Oracle = Callable[[str, str], PreTrainedModel]
IMAGE_GRIDS = [Grid(1, 2, 2), Grid(1, 4, 38), Grid(1, 26, 34), Grid(1, 16, 16), Grid(1, 38, 4)]
VIDEO_GRIDS = [Grid(2, 6, 10), Grid(3, 18, 8)]
STEPS = 32
MAX_ABS = {"fp32": 1e-3}
MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999}

shapes = pytest.mark.parametrize(
    "shape", [name if name == "small" else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
WAYS = [way for way in product(GRAPH_TARGETS, ("fp32", "fp16")) if way != ("cuda", "fp32")]
"""Targets and precisions; in fp32, `cuda` has the graphs of `cpu`."""
ways = pytest.mark.parametrize(("target", "precision"), WAYS)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine between rows."""
    dot = (a.astype(np.float64) * b).sum(-1)
    return float((dot / np.linalg.norm(a.astype(np.float64), axis=-1) / np.linalg.norm(b, axis=-1)).min())


def assert_close(ours: np.ndarray, theirs: np.ndarray, precision: str) -> None:
    assert ours.shape == theirs.shape
    assert cosine(ours, theirs) >= MIN_COSINE[precision]
    if precision in MAX_ABS:
        assert np.abs(ours - theirs).max() <= MAX_ABS[precision]


def greedy_answer(ours: Model, theirs: PreTrainedModel, prompt: Prompt) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The reference's logits of all prompt tokens and of an answer of STEPS + 1 tokens, and the answer's tokens."""
    with torch.no_grad():
        generated = theirs.generate(
            **oracle_inputs(ours, prompt),
            max_new_tokens=STEPS + 1,
            min_new_tokens=STEPS + 1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        everywhere = theirs(**oracle_inputs(ours, prompt)).logits[0].numpy()
    return everywhere, torch.cat(generated.logits).numpy(), generated.sequences[0, len(prompt.ids) :].tolist()


def cached_steps(model: Model, prompt: Prompt, first: np.ndarray, tokens: list[int]) -> np.ndarray:
    """`first`, the logits after the prompt, and those after each of STEPS tokens."""
    steps = [first]
    for index, token in enumerate(tokens[:STEPS]):
        steps.append(model.decoder.step(token, prompt.next_position + index))
    return np.stack(steps)


def image(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("family", FREE_SIZES)
@shapes
@ways
@pytest.mark.parametrize("grid", IMAGE_GRIDS + VIDEO_GRIDS, ids=str)
def test_image_features(
    oracle: Oracle, model: Loader, family: str, shape: str, target: str, precision: str, grid: Grid
) -> None:
    ours, rng = model(family, shape, precision, target), np.random.default_rng(grid.h * 100 + grid.w)
    patches = rng.standard_normal((grid.t, grid.h * grid.w, ours.manifest.image.patch_dim)).astype(np.float32)
    with torch.no_grad():
        flat = torch.from_numpy(patches).reshape(-1, patches.shape[-1])
        theirs = oracle(family, shape).model.visual(flat, grid_thw=torch.tensor([[grid.t, grid.h, grid.w]]))
    references = [theirs.pooler_output, *(getattr(theirs, "deepstack_features", None) or [])]
    for features, reference in zip(ours.engine.encode(patches, grid), references, strict=True):
        assert_close(features, reference.numpy(), precision)


def one_image() -> list[dict[str, Any]]:
    return [{"type": "image", "image": image(150, 90, 1)}, {"type": "text", "text": "What is the total?"}]


def three_images() -> list[dict[str, Any]]:
    return [
        {"type": "image", "image": image(30, 500, 2)},
        {"type": "text", "text": "Compare "},
        {"type": "image", "image": image(310, 240, 3)},
        {"type": "image", "image": image(56, 56, 4)},
        {"type": "text", "text": "Read the text."},
    ]


def a_video() -> list[dict[str, Any]]:
    frames = [image(112, 84, seed) for seed in range(5)]
    return [{"type": "video", "video": frames, "fps": 1.5}, {"type": "text", "text": "Read the text."}]


def only_text() -> list[dict[str, Any]]:
    return [{"type": "text", "text": "What is the date?"}]


def contents_for(
    *contents: Callable[[], list[dict[str, Any]]],
) -> list[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """Families, and of these contents what each takes."""
    return [
        (family, content)
        for family in FAMILIES
        for content in contents
        if content is not a_video or family in FREE_SIZES
    ]


def oracle_inputs(model: Model, prompt: Prompt) -> dict[str, Any]:
    """The prompt as transformers takes it: flat patches, grids, and token types; positions are left to it."""
    ids = torch.from_numpy(prompt.ids)[None]
    tokens = model.manifest.tokens
    types = (ids == tokens.image).long() + 2 * (ids == (-1 if tokens.video is None else tokens.video)).long()
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    for kind, pixels, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        chosen = [item for item in prompt.placed if item.media.kind == kind and not item.first_row]
        if chosen:
            patches = [patchify(item.media.frames, model.manifest.image, item.grid) for item in chosen]
            inputs[pixels] = torch.cat(
                [torch.from_numpy(p.pixel_values).reshape(-1, p.pixel_values.shape[-1]) for p in patches]
            )
            inputs[grids] = torch.tensor([[p.grid.t, p.grid.h, p.grid.w] for p in patches])
    if "video_grid_thw" in inputs and model.manifest.video.tokens_per_second is not None:
        seconds = [2 / item.media.fps for item in prompt.placed if item.media.kind == "video"]
        inputs["second_per_grid_ts"] = torch.tensor(seconds)
    return inputs


@pytest.mark.slow
@shapes
@ways
@pytest.mark.parametrize(("family", "content"), contents_for(one_image, three_images, a_video, only_text))
def test_prefill_and_cached_decode(
    oracle: Oracle,
    model: Loader,
    family: str,
    shape: str,
    target: str,
    precision: str,
    content: Callable[[], list[dict[str, Any]]],
) -> None:
    """All prompt logits, then 32 cached steps along the oracle's own greedy tokens."""
    ours, theirs = model(family, shape, precision, target), oracle(family, shape)
    prompt = ours.prompt([{"role": "user", "content": content()}], reserve=STEPS)
    everywhere, answer, tokens = greedy_answer(ours, theirs, prompt)
    logits = ours.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())
    assert_close(logits, everywhere, precision)
    assert_close(cached_steps(ours, prompt, logits[-1], tokens), answer, precision)


@shapes
@pytest.mark.parametrize("target", [target for target, precision in WAYS if precision == "fp32"])
@pytest.mark.parametrize(("family", "content"), contents_for(one_image, three_images, a_video))
def test_greedy_tokens_are_identical(
    oracle: Oracle, model: Loader, family: str, shape: str, target: str, content: Callable[[], list[dict[str, Any]]]
) -> None:
    ours = model(family, shape, "fp32", target)
    messages = [{"role": "user", "content": content()}]
    stream = ours.stream(messages, max_new_tokens=STEPS)
    list(stream)
    prompt = ours.prompt(messages, reserve=STEPS)
    with torch.no_grad():
        sequence = (
            oracle(family, shape)
            .generate(
                **oracle_inputs(ours, prompt),
                max_new_tokens=STEPS,
                do_sample=False,
                eos_token_id=ours.manifest.tokens.stop,
            )[0, len(prompt.ids) :]
            .tolist()
        )
    stop = set(ours.manifest.tokens.stop)
    assert stream.run.tokens == [token for token in sequence if token not in stop]


def test_video_tokens_are_used(model: Loader) -> None:
    """The video prompts above do hold video tokens, in several temporal patches."""
    prompt = model("qwen2_5_vl", "small", "fp32").prompt([{"role": "user", "content": a_video()}])
    assert (prompt.ids == VIDEO).sum() == prompt.placed[0].span.tokens
    assert prompt.placed[0].span.t == 3
