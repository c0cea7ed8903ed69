"""Answers of the server whose client left, or whose time is over, while their media are read; boxes of answers."""

from __future__ import annotations

import asyncio
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime.common.interruption import Deadline, check_interrupted
from qvl_runtime.grounding import Box
from qvl_runtime.model import Model
from qvl_runtime.requests.request import ChatRequest
from qvl_runtime.requests.toolbox import Toolbox
from qvl_runtime.serve import answering
from qvl_runtime.serve.answering import Answer, worker

REQUEST = ChatRequest(model="tiny", messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("cancelled", [True, False])
def test_reading_media_ends_with_the_answer(deep_model: Model, cancelled: bool) -> None:
    """As the frames of a video are: between two of them."""
    answer, steps = Answer(asyncio.new_event_loop(), Deadline(monotonic() + 300)), []

    def messages(_: Any) -> list[Any]:
        for step in range(10):
            check_interrupted("while its video was decoded")
            steps.append(step)
            if step == 3 and cancelled:
                answer.cancel()
            elif step == 3:
                answer.deadline.until = monotonic()
        return []

    slots: Any = SimpleNamespace(models=[deep_model])
    media: Any = SimpleNamespace(messages=messages)
    worker(answer, REQUEST, Toolbox(), slots, lambda: media)()
    assert steps == [0, 1, 2, 3] and answer.error is not None
    assert (answer.error.status, answer.error.code) == ((499, None) if cancelled else (503, "timeout"))
    why = "the request was cancelled" if cancelled else "the time of the request was over"
    assert answer.error.message == f"{why} while its video was decoded"
    answer.loop.close()


def asked(*images: Image.Image) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "Where?"}]}]


def test_boxes_are_in_pixels_of_the_only_image(deep_model: Model) -> None:
    page = Image.fromarray(np.zeros((100, 200, 3), np.uint8))  # seen in another size by the model
    prompt = deep_model.prompt(asked(page), 8)
    grid, side = prompt.placed[0].grid, deep_model.manifest.image.patch_size
    text = f'{{"bbox_2d": [0, 0, {grid.w * side}, {grid.h * side}], "label": "all"}}'
    assert answering._regions(deep_model, prompt, text) == [Box("all", 0, 0, 200, 100)]
    assert answering._regions(deep_model, prompt, "Nowhere.") == []
    assert answering._regions(deep_model, deep_model.prompt(asked(page, page), 8), text) is None
    assert answering._regions(deep_model, deep_model.prompt(asked(), 8), text) is None
