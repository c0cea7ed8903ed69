"""Keys of messages and their parts: honored as qwen-vl-utils does, handed to the template, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qvl_runtime.errors import PromptError
from qvl_runtime.media.video import FrameSampling, PixelBudget, evenly_spaced, load_clip
from qvl_runtime.model import Model
from tests.conftest import Loader

RESIZED = [
    ((280, 420), 28, (280, 420)),
    ((280, 420), 32, (288, 416)),
    ((10, 30), 28, (56, 112)),
    ((10, 10), 28, (56, 56)),
    ((1000, 1500), 28, (1008, 1512)),
    ((5000, 9000), 28, (2660, 4788)),
    ((14, 2000), 28, (28, 1988)),
    ((42, 70), 28, (56, 56)),
    ((43, 71), 28, (56, 84)),
    ((16, 16), 32, (64, 64)),
    ((60, 11000), 28, (56, 11004)),
    ((6000, 6000), 32, (4096, 4096)),
]
"""resized_height and resized_width, side of a token, and what `smart_resize` of qwen-vl-utils 0.0.14 returned."""
RANGES: list[tuple[int, float, dict[str, Any], tuple[int, int], int, float]] = [
    (300, 30.0, {"video_start": 2}, (60, 240), 16, 2.0),
    (300, 30.0, {"video_end": 4.5}, (0, 136), 8, 1.7647058823529411),
    (300, 29.97, {"video_start": 1.01, "video_end": 7.77}, (31, 202), 12, 1.7803960396039602),
    (45, 10.0, {"video_start": 1, "video_end": 3}, (10, 21), 4, 1.9047619047619047),
    (45, 10.0, {"video_start": -3, "video_end": 99}, (0, 45), 8, 1.777777777777778),
    (45, 10.0, {"video_start": 1.05, "video_end": 1.31}, (11, 3), 2, 6.666666666666666),
    (9000, 23.976, {"video_start": 100.5, "video_end": 250, "fps": 1}, (2410, 3585), 148, 0.9898041841004184),
    (45, 10.0, {"video_start": 0.5, "nframes": 6}, (5, 40), 6, 1.5),
]
"""Frames, frames per second, options; first frame and number of frames in that time, how many are taken and their rate,
all as qwen-vl-utils 0.0.14 answered."""


@pytest.fixture
def tiny(model: Loader) -> Model:
    return model("qwen2_5_vl", "small", "fp32")


def picture(width: int = 150, height: int = 90) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def image(**keys: Any) -> dict[str, Any]:
    return {"type": "image", "image": picture(), **keys}


def video(**keys: Any) -> dict[str, Any]:
    return {"type": "video", "video": [picture(84, 56)] * 4, **keys}


def text(**keys: Any) -> dict[str, Any]:
    return {"type": "text", "text": "Read.", **keys}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(("asked", "side", "expected"), RESIZED)
def test_a_requested_size_equals_qwen_vl_utils(asked: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    budget = PixelBudget.from_part({"resized_height": asked[0], "resized_width": asked[1]})
    assert budget.resized_to(side) == expected[::-1]


def test_a_requested_size_reaches_the_grid(tiny: Model) -> None:
    """For any size and shape of the picture, and any bounds of the bundle."""
    size = {"resized_height": 280, "resized_width": 420}
    film = np.stack([np.asarray(picture(84, 56))] * 4)
    parts = image(**size), {**video(**size)}, {**video(**size), "video": film}
    placed = tiny.prompt(user(*parts)).placed
    assert [(item.grid.h * 14, item.grid.w * 14) for item in placed] == [(280, 420)] * 3
    pixels = placed[0].patches(tiny.manifest.image).pixel_values
    plain = Image.new("RGB", (420, 280), "white")
    same = tiny.prompt(user({"type": "image", "image": plain, "min_pixels": 1})).placed[0]
    assert np.array_equal(pixels, same.patches(tiny.manifest.image).pixel_values)
    box = tiny.regions('{"bbox_2d": [42, 28, 84, 56], "label": "x"}', placed[0])[0]
    assert (box.x1, box.y1) == pytest.approx((15, 9)), "in pixels of the picture, not of the requested size"  # type: ignore[union-attr]


def test_a_requested_size_still_fits_the_maximum_length(model: Loader) -> None:
    tiny = model("qwen2_5_vl", "small", "fp32")
    with pytest.warns(UserWarning, match="scaled down"):
        prompt = tiny.prompt(user(image(resized_height=2800, resized_width=2800), text()), 100)
    assert len(prompt.ids) <= tiny.manifest.llm.max_length - 100


@pytest.mark.parametrize(("total", "rate", "options", "span", "count", "fps"), RANGES)
def test_a_time_of_a_video_is_that_of_qwen_vl_utils(
    total: int, rate: float, options: dict[str, Any], span: tuple[int, int], count: int, fps: float
) -> None:
    sampling = FrameSampling.from_part(options)
    assert sampling.range(total, rate) == span
    assert sampling.count(span[1], rate) == count
    assert count / span[1] * rate == pytest.approx(fps)


@pytest.mark.parametrize("first", [0, 1, 5, 60, 2410])
@pytest.mark.parametrize("total", [2, 3, 21, 202, 3585])
@pytest.mark.parametrize("count", [2, 4, 12, 148])
def test_the_same_frames_of_a_time(first: int, total: int, count: int) -> None:
    count = min(count, total)
    theirs = torch.linspace(first, first + total - 1, count).round().long().tolist()
    assert evenly_spaced(total, count, first).tolist() == theirs


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 gray frames at 10 per second, each lighter than the last."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 96, "yuv420p", 4_000_000
        for index in range(45):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 10 + 5 * index, np.uint8))))
        container.mux(stream.encode())
    return path


def test_a_time_of_a_video_reaches_its_frames(tiny: Model, film: Path) -> None:
    part = {"type": "video", "video": film, "video_start": 1, "video_end": 3, "resized_height": 84, "resized_width": 56}
    (placed,) = tiny.prompt(user(part)).placed
    chosen = [10, 17, 23, 30]
    greys = [np.asarray(frame).mean() for frame in placed.media.frames]
    assert greys == pytest.approx([10 + 5 * index for index in chosen], abs=3)
    assert placed.media.times == pytest.approx([index / 10 for index in chosen])
    assert placed.media.fps == pytest.approx(4 / 21 * 10)
    assert [frame.size for frame in placed.media.frames] == [(56, 84)] * 4


def test_frames_of_a_list_are_chosen_before_they_are_read(tmp_path: Path) -> None:
    """So that a thousand photographs are not held at once."""
    names = [str(tmp_path / f"{index}.png") for index in range(9)]
    for index in (0, 4, 8):
        picture().save(names[index])
    clip = load_clip(names, FrameSampling.from_part({"fps": 3, "max_frames": 3}), lambda frames, size: size)
    assert (len(clip.frames), clip.fps, clip.times) == (3, 1.0, pytest.approx((0, 4 / 3, 8 / 3)))


def test_sample_fps_is_the_rate_of_given_frames(tiny: Model) -> None:
    a, b = (tiny.prompt(user(video(**rate))) for rate in ({"sample_fps": 1}, {"fps": 1}))
    assert np.array_equal(a.positions, b.positions) and a.placed[0].media.fps == 1


@pytest.mark.parametrize("options", [{"video_start": 4.45}, {"video_start": 3, "video_end": 2}, {"video_end": 0}])
def test_a_time_without_frames_is_refused(tiny: Model, film: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=r"holds under two frames \(the video is 4\.50 seconds long\)"):
        tiny.prompt(user({"type": "video", "video": film, **options}))


def test_sizes_are_refused_if_the_model_has_one_size(model: Loader) -> None:
    square = model("qwen", "small", "fp32")
    for key in ("max_pixels", "min_pixels"):
        with pytest.raises(PromptError, match=r"resizes every image to \d+ × \d+ pixels"):
            square.prompt(user(image(**{key: 5000})))


@pytest.mark.parametrize("role", [np.array(["user", "user"]), ["user"], None, 5], ids=str)
def test_roles_are_texts(tiny: Model, role: Any) -> None:
    with pytest.raises(PromptError, match="the role of a message must be one of system, user"):
        tiny.prompt([{"role": role, "content": "Read."}])


def test_an_answer_of_several_lengths_is_refused(tiny: Model) -> None:
    with pytest.raises(PromptError, match=r"the answer must be .* got \[\[1\], \[1, 2\]\]"):
        tiny.logits(user(text()), [[1], [1, 2]])  # type: ignore[list-item]


def test_image_urls_of_openai(tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    picture(300, 200).save(path)
    expected = tiny.prompt(user({"type": "image", "image": path, "max_pixels": 28000}, text()))
    for url in (str(path), path.as_uri(), {"url": path.as_uri(), "detail": "high"}, {"url": str(path), "detail": None}):
        given = tiny.prompt(user({"type": "image_url", "image_url": url, "max_pixels": 28000}, text()))
        assert np.array_equal(given.ids, expected.ids) and given.placed[0].key == expected.placed[0].key
    for url, reason in (
        ({}, "an image_url has no url"),
        ({"url": None}, "an image_url has no url"),
        ({"url": "x", "detail": "low"}, "detail 'low' is not supported .give max_pixels"),
        ({"url": "x", "detail": np.zeros(2)}, "detail array"),
        ({"url": "x", "size": 4}, "an image_url has the unknown key 'size'"),
        (None, "cannot use the content part"),
    ):
        with pytest.raises(PromptError, match=reason):
            tiny.prompt(user({"type": "image_url", "image_url": url}, text()))


def test_video_urls(tiny: Model, film: Path) -> None:
    for url in ({"url": film.as_uri()}, str(film)):
        given = tiny.prompt(user({"type": "video_url", "video_url": url, "fps": 1}))
        assert len(given.placed[0].media.frames) == FrameSampling.from_part({"fps": 1}).count(45, 10)
