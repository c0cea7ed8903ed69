"""Videos with times in their text: ids as transformers' `Qwen3VLProcessor` makes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from qvl_runtime.errors import PromptError
from qvl_runtime.manifest import ImageTokens
from qvl_runtime.model import Model
from qvl_runtime.prompts.prompt import collect
from qvl_runtime.prompts.timestamps import patch_times, write_times
from tests.conftest import REFERENCE, Loader
from tests.oracles.tiny import VIDEO


@pytest.fixture(scope="module")
def processor() -> Qwen3VLProcessor:
    """The reference without its video processor, which needs torchvision and makes no text."""
    shell = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    shell.tokenizer = AutoTokenizer.from_pretrained(REFERENCE)
    shell.image_processor = SimpleNamespace(merge_size=2)
    shell.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    shell.image_token, shell.video_token = "<|image_pad|>", "<|video_pad|>"
    shell.vision_start_token, shell.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    return shell


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_5"])
def tiny(model: Loader, request: pytest.FixtureRequest) -> Model:
    return model(request.param, "small", "fp32")


def frames(count: int, size: tuple[int, int] = (96, 64)) -> list[Image.Image]:
    return [Image.new("RGB", size, (20 * index, 90, 90)) for index in range(count)]


def video(count: int, **options: Any) -> dict[str, Any]:
    return {"type": "video", "video": frames(count), **options}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


PROMPTS = {
    "one": [video(4, fps=2.0), text("Read.")],
    "odd": [text("See: "), video(5, fps=1.5), text("Read.")],
    "single frame": [video(1)],
    "with images": [video(3, fps=24), {"type": "image", "image": frames(1)[0]}, text("and."), video(8, fps=0.3)],
    "no video": [{"type": "image", "image": frames(1, (200, 80))[0]}, text("Read.")],
}


@pytest.mark.parametrize("content", PROMPTS.values(), ids=PROMPTS)
def test_ids_are_those_of_the_reference(
    tiny: Model, processor: Qwen3VLProcessor, content: list[dict[str, Any]]
) -> None:
    messages = [{"role": "user", "content": content}]
    prompt = tiny.prompt(messages)
    whole = [item for item in prompt.placed if not item.first_row]
    images, videos = [], []
    for item in whole:
        grid = np.array([item.grid.t, item.grid.h, item.grid.w])
        if item.media.kind == "image":
            images.append(processor.replace_image_token({"image_grid_thw": grid[None]}, 0))
        else:
            shown = list(range(len(item.media.frames)))
            metadata = SimpleNamespace(fps=item.media.fps, frames_indices=shown)
            inputs = {"video_grid_thw": torch.from_numpy(grid)[None], "video_metadata": [metadata]}
            videos.append(processor.replace_video_token(inputs, 0))
    cleaned, _ = collect(messages, tiny.manifest)
    rendered = processor.tokenizer.apply_chat_template(cleaned, tokenize=False, add_generation_prompt=True)
    (expanded,), _ = processor.get_text_with_replacements([rendered], images, videos)
    assert prompt.ids.tolist() == processor.tokenizer(expanded).input_ids


def test_every_patch_has_its_own_span_and_rows(tiny: Model) -> None:
    prompt = tiny.prompt([{"role": "user", "content": [video(5, fps=1.0, max_pixels=96 * 64), text("Read.")]}])
    cells = 3 * 2
    assert [item.first_row for item in prompt.placed] == [0, cells, 2 * cells]
    for item in prompt.placed:
        assert (prompt.ids[item.span.start : item.span.end] == VIDEO).all()
        assert (item.span.t, item.span.tokens) == (1, cells)
    assert len({item.key for item in prompt.placed}) == 1, "encoded once"


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=9), st.integers(1, 3))
def test_times_are_means_of_first_and_last(times: list[float], size: int) -> None:
    shell = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    assert patch_times(times, size) == shell._calculate_timestamps(list(times), 1.0, size)


@pytest.mark.parametrize("content", ["<|video_pad|>", "<|vision_start|><|video_pad|><|vision_end|>"])
@pytest.mark.parametrize("before", [True, False])
def test_placeholders_in_a_text_are_refused(tiny: Model, content: str, before: bool) -> None:
    parts = [text(content), video(4)] if before else [video(4), text(content)]
    with pytest.raises(PromptError, match="placeholders for"):
        tiny.prompt([{"role": "user", "content": parts}])


def test_a_vision_block_has_the_tokens_of_the_manifest() -> None:
    around = ImageTokens(start="<a>", end="<b>", layout="grid")
    assert write_times("x<|video_pad|>y", [[0.25, 1.0]], around) == (
        "x<0.2 seconds><a><|video_pad|><b><1.0 seconds><a><|video_pad|><b>y"
    )
