"""Keys of messages and their parts: honored as qwen-vl-utils does, handed to the template, or refused by name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qvl_runtime.errors import PromptError
from qvl_runtime.media.video import FrameSampling, PixelBudget, evenly_spaced, load_clip
from qvl_runtime.model import Model
from qvl_runtime.prompts.content import collect
from qvl_runtime.prompts.part_keys import PART_KEYS
from qvl_runtime.templates.chat import ChatTemplate
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


def test_numbers_may_be_of_numpy_or_whole_floats(tiny: Model) -> None:
    plain = {"min_pixels": 3136, "max_pixels": 20 * 784, "total_pixels": 784000, "max_frames": 4, "fps": 4}
    kinds: tuple[Any, ...] = (np.int64, np.float32, float, np.uint32)
    expected = tiny.prompt(user(video(**plain)))
    for kind in kinds:
        given = tiny.prompt(user(video(**{name: kind(value) for name, value in plain.items()})))
        assert np.array_equal(given.ids, expected.ids) and np.array_equal(given.positions, expected.positions)


REFUSED = {
    "misspelt": (image(max_pixel=5), "'image' has the unknown key 'max_pixel' .did you mean max_pixels"),
    "another's": (image(total_pixels=5000), "'image' has the unknown key 'total_pixels'"),
    "of a video": (video(color=4), "'video' has the unknown key 'color' .its keys are type, video, min_pixels"),
    "raw_fps": (video(raw_fps=4), "unknown key 'raw_fps' .did you mean"),
    "of a text": (text(cache_control={"type": "ephemeral"}), "'text' has the unknown key 'cache_control'"),
    "two in one": (image(text="Read."), "'image' has the unknown key 'text'"),
    "a key of thousands of digits": (text() | {10**5000: 1}, "unknown key 'a number of thousands of digits'"),
    "a text of as many": ({"type": "text", "text": 10**5000}, "cannot use the content part"),
    "no text": ({"type": "text", "text": "x", 7: 8}, "unknown key '7'"),
    "escape codes": (image(**{"\x1b[2J": 1}), r"unknown key '\\x1b\[2J'"),
    "one side": (image(resized_height=280), "resized_height and resized_width must be given together"),
    "resized to nothing": (image(resized_height=0, resized_width=28), "resized_height must be a whole number .* got 0"),
    "resized to a line": (
        image(resized_height=10, resized_width=9000),
        "resized_width 9000 to resized_height 10",
    ),
    "beyond all numbers": (image(max_pixels=10**400), "max_pixels must be .* got 1000"),
    "beyond all floats": (video(total_pixels=10**400), "total_pixels must be .* got 1000"),
    "beyond what Python writes": (
        video(min_frames=10**5000),
        "min_frames must be .* got a number of thousands of digits",
    ),
    "a fraction beyond all floats": (image(max_pixels=Fraction(10**400, 3)), "max_pixels must be .* got Fraction"),
    "a rate beyond all": (video(fps=10**5000), "fps must be .* got a number of thousands of digits"),
    "a second too far": (video(video_start=10**400), "video_start must be .* got 1000"),
    "an array": (image(max_pixels=np.array([5, 6])), r"max_pixels must be .* got array\(\[5, 6\]\)"),
    "bool": (image(max_pixels=True), "max_pixels must be .* got True"),
    "fraction": (image(max_pixels=0.5), r"max_pixels must be .* got 0\.5"),
    "infinite": (image(max_pixels=float("inf")), "max_pixels must be .* got inf"),
    "start of a list": (video(video_start=1), "video_start applies to video files only"),
    "end of a list": (video(video_end=1), "video_end applies to video files only"),
    "start a text": (video(video_start="1s"), "video_start must be a finite number .* got '1s' .seconds"),
    "two rates": (video(fps=1, sample_fps=1), "both fps and sample_fps"),
    "rate a text": (video(sample_fps="1"), "sample_fps must be a finite number >= .* got '1'"),
}


@pytest.mark.parametrize(("part", "reason"), REFUSED.values(), ids=REFUSED)
def test_keys_that_nothing_reads_are_refused(tiny: Model, part: dict[str, Any], reason: str) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        tiny.prompt(user(part))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"video_start": 4.45}, {"video_start": 3, "video_end": 2}, {"video_end": 0}])
def test_a_time_without_frames_is_refused(tiny: Model, film: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=r"holds under two frames \(the video is 4\.50 seconds long\)"):
        tiny.prompt(user({"type": "video", "video": film, **options}))


def test_sizes_are_refused_if_the_model_has_one_size(model: Loader) -> None:
    square = model("qwen", "small", "fp32")
    for key in ("max_pixels", "min_pixels"):
        with pytest.raises(PromptError, match=r"resizes every image to \d+ × \d+ pixels"):
            square.prompt(user(image(**{key: 5000})))


def test_none_is_not_a_value(tiny: Model) -> None:
    """Data sets give all parts the same keys."""
    keys = {key: None for keys in PART_KEYS.values() for key in keys if key != "type"}
    parts = {**keys, "type": "image", "image": picture()}, {**keys, "type": "text", "text": "Read."}
    assert np.array_equal(tiny.prompt(user(*parts)).ids, tiny.prompt(user(image(), text())).ids)
    for options in ({}, {"fps": 4}, {"sample_fps": 4}, {"max_frames": 2}):
        given, alone = ({**none, **video(**options)} for none in (keys, {}))
        assert np.array_equal(tiny.prompt(user(given)).positions, tiny.prompt(user(alone)).positions)


@pytest.mark.parametrize("role", [np.array(["user", "user"]), ["user"], None, 5], ids=str)
def test_roles_are_texts(tiny: Model, role: Any) -> None:
    with pytest.raises(PromptError, match="the role of a message must be one of system, user"):
        tiny.prompt([{"role": role, "content": "Read."}])


def test_an_answer_of_several_lengths_is_refused(tiny: Model) -> None:
    with pytest.raises(PromptError, match=r"the answer must be .* got \[\[1\], \[1, 2\]\]"):
        tiny.logits(user(text()), [[1], [1, 2]])  # type: ignore[list-item]


def test_keys_of_messages(tiny: Model) -> None:
    said = {
        "role": "assistant",
        "content": "A bill.",
        "refusal": None,
        "annotations": [],
        "name": "clerk",
        "thinking": "hm",
    }
    asked = [*user(text()), said, *user(text())]
    assert len(tiny.prompt(asked).ids) > 0
    for key, reason in {
        "contents": "did you mean content",
        "tool_call": "did you mean tool_call",
        "x": "its keys",
    }.items():
        with pytest.raises(PromptError, match=f"a message has the unknown key '{key}' .{reason}"):
            tiny.prompt([*asked, {"role": "user", "content": "x", key: "y"}])


def test_keys_that_the_template_reads_reach_it(tiny: Model) -> None:
    source = (
        "{% for message in messages %}{{ message.thinking }}{{ message['name'] }}{% for part in message.content %}"
        "{{ part.get('title') }}{{ part.text }}{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(source, Path("chat_template.jinja"))
    message = {"role": "user", "name": "Ann", "thinking": "hm", "content": [text(title="Bill")]}
    cleaned, _ = collect([message], tiny.manifest, template.reads)
    assert template.render(cleaned) == "hmAnnBillRead."
    called = {**message, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    cleaned, _ = collect([called], tiny.manifest, template.reads)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert "hmAnnBillRead." in template.render(cleaned, tools), "nor are they lost where calls become text"
    for wrong in ({**message, "thinkin": "x"}, {**message, "content": [text(titl="x")]}):
        with pytest.raises(PromptError, match=r"unknown key '(thinkin|titl)'"):
            collect([wrong], tiny.manifest, template.reads)
    assert template.reads("text") and not template.reads("tex") and not template.reads("messages")


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
