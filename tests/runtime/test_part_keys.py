"""Keys of messages and of their parts: read, handed to the template, or refused by name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model
from qvl_runtime.prompts.content import collect
from qvl_runtime.prompts.part_keys import PART_KEYS
from qvl_runtime.templates.chat import ChatTemplate
from tests.conftest import Loader
from tests.runtime.test_content import image, picture, text, user, video


@pytest.fixture
def tiny(model: Loader) -> Model:
    return model("qwen2_5_vl", "small", "fp32")


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


def test_none_is_not_a_value(tiny: Model) -> None:
    """Data sets give all parts the same keys."""
    keys = {key: None for keys in PART_KEYS.values() for key in keys if key != "type"}
    parts = {**keys, "type": "image", "image": picture()}, {**keys, "type": "text", "text": "Read."}
    assert np.array_equal(tiny.prompt(user(*parts)).ids, tiny.prompt(user(image(), text())).ids)
    for options in ({}, {"fps": 4}, {"sample_fps": 4}, {"max_frames": 2}):
        given, alone = ({**none, **video(**options)} for none in (keys, {}))
        assert np.array_equal(tiny.prompt(user(given)).positions, tiny.prompt(user(alone)).positions)


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
