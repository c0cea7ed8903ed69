"""Messages become the ids transformers would make, fit the bundle's length, or are refused before any graph runs."""

from __future__ import annotations

import warnings
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qvl_runtime.errors import MediaError, PromptError
from qvl_runtime.manifest import ImageGeometry, Manifest
from qvl_runtime.model import Model
from qvl_runtime.preprocess import resized_grid
from qvl_runtime.prompts.prompt import Media, Prompt, ScaledImageWarning, build_prompt, collect, fit_pixel_budget
from qvl_runtime.templates.chat import ChatTemplate
from tests.conftest import REFERENCE, Loader
from tests.oracles.tiny import FREE_SIZES, IMAGE, VIDEO

PADS = {"image": "<|image_pad|>", "video": "<|video_pad|>"}


@pytest.fixture(scope="module")
def tiny(model: Loader) -> Model:
    return model("qwen2_5_vl", "small", "fp32")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(REFERENCE)


def blank(width: int, height: int, color: str = "white") -> Image.Image:
    return Image.new("RGB", (width, height), color)


def image(width: int = 150, height: int = 90) -> dict[str, Any]:
    return {"type": "image", "image": blank(width, height)}


def video(frames: int = 4, **options: Any) -> dict[str, Any]:
    return {"type": "video", "video": [blank(84, 56)] * frames, **options}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def limited(model: Model, max_length: int, **image: Any) -> Manifest:
    """The manifest of a bundle with a shorter maximum length."""
    manifest = model.manifest
    llm = msgspec.structs.replace(manifest.llm, max_length=max_length)
    return msgspec.structs.replace(manifest, llm=llm, image=msgspec.structs.replace(manifest.image, **image))


def built(model: Model, manifest: Manifest, messages: Any, reserve: int = 0) -> Prompt:
    source = model.bundle / "chat_template.jinja"
    template = ChatTemplate(source.read_text("utf-8"), source, manifest.special_tokens)
    return build_prompt(messages, manifest, template.render, model.token_ids, reserve)


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "text": [user(text("What is the date?"))],
    "chinese and emoji": [{"role": "user", "content": "读出文字 😀 №"}],
    "image": [user(image(), text("Read the text."))],
    "images": [user(image(30, 500), text("a"), image(310, 240), image(56, 56), text("<|im_end|>"))],
    "video": [user(video(5), text("What?"), image())],
    "turns": [
        user(image(), text("Total?")),
        {"role": "assistant", "content": "12"},
        user(image(90, 30), text("This?")),
    ],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_ids_equal_those_of_transformers(
    tiny: Model, tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]
) -> None:
    """As transformers' processor does it: placeholders multiplied in the text, then tokenized."""
    prompt = tiny.prompt(messages)
    rendered = tokenizer.apply_chat_template(
        collect(messages, tiny.manifest)[0], tokenize=False, add_generation_prompt=True
    )
    for item in prompt.placed:
        grid = item.grid
        rendered = rendered.replace(PADS[item.media.kind], "<|held|>" * (grid.t * grid.h * grid.w // 4), 1)
        rendered = rendered.replace("<|held|>", PADS[item.media.kind].replace("pad", "held"))
    theirs = tokenizer(rendered.replace("held", "pad")).input_ids
    assert prompt.ids.tolist() == theirs
    assert prompt.positions.shape == (3, len(theirs))


def test_spans_hold_the_image_tokens(tiny: Model) -> None:
    prompt = tiny.prompt([user(image(300, 90), video(5), image(60, 60))])
    kinds = np.array([IMAGE, VIDEO, IMAGE])
    for item, kind in zip(prompt.placed, kinds, strict=True):
        assert (prompt.ids[item.span.start : item.span.end] == kind).all()
    assert sum(item.span.tokens for item in prompt.placed) == np.isin(prompt.ids, kinds).sum()
    assert prompt.placed[1].span.t == 3


def test_pages_of_a_tiff_follow_one_another(tiny: Model, tmp_path: Any) -> None:
    blank(60, 60).save(tmp_path / "p.tif", save_all=True, append_images=[blank(90, 30), blank(30, 90)])
    prompt = tiny.prompt([user({"type": "image", "image": tmp_path / "p.tif"}, text("Read."))])
    assert [item.media.frames[0].size for item in prompt.placed] == [(60, 60), (90, 30), (30, 90)]


MALFORMED = {
    "nothing": ([], "there are no messages"),
    "no text": ([{"role": "user", "content": "  "}], "the prompt is empty"),
    "no parts": ([user()], "the prompt is empty"),
    "a string": ("Read the text.", "messages must be a list"),
    "a number": (5, "messages must be a list"),
    "a dict": ({"role": "user", "content": "x"}, "messages must be a list"),
    "no role": ([{"content": "x"}], "role of a message must be one of"),
    "unknown role": ([{"role": "robot", "content": "x"}], "must be one of system, user"),
    "no content": ([{"role": "user"}], "content of a message must be .* got NoneType"),
    "content a number": ([{"role": "user", "content": 7}], "must be a string or a list of parts, got int"),
    "content a dict": ([{"role": "user", "content": text("x")}], "must be a string or a list of parts, got dict"),
    "content bytes": ([{"role": "user", "content": b"x"}], "cannot use the content part"),
    "bare strings": ([user("x")], "cannot use the content part"),
    "unknown part": ([user({"type": "audio", "audio": "a.wav"})], "cannot use the content part .*audio"),
    "no image": ([user({"type": "image"})], "cannot use the content part"),
    "text None": ([user({"type": "text", "text": None})], "cannot use the content part"),
    "video number": ([user({"type": "video", "video": 5})], r"5.*\[frame, …\]"),
    "max_pixels": ([user({**image(), "max_pixels": 0})], "max_pixels must be a whole number >= 1, got 0"),
    "min_pixels": ([user({**image(), "min_pixels": "many"})], "min_pixels must be a whole number >= 1, got 'many'"),
    "pixel bounds": ([user({**image(), "min_pixels": 9, "max_pixels": 8})], "min_pixels 9 is above max_pixels 8"),
    "frames": ([user({**video(4), "max_frames": 2.5})], r"max_frames must be a whole number >= 1, got 2\.5"),
    "frame bounds": ([user({**video(4), "max_frames": 4, "min_frames": 6})], "max_frames 4 is below min_frames 6"),
    "two rates": ([user({**video(4), "fps": 2, "nframes": 4})], "both fps and nframes"),
    "fps text": ([user(video(fps="2"))], "fps must be a finite number >= .* got '2'"),
    "fps zero": ([user(video(fps=0))], "fps must be >= 0.01 and <= 1000, got 0"),
    "fps nan": ([user(video(fps=float("nan")))], "fps must be a finite number >= .* got nan"),
    "fps tiny": ([user(video(fps=1e-30))], "fps must be >= 0.01 and <= 1000, got 1e-30"),
    "placeholder in text": ([user(text("<|image_pad|>"))], "1 image or video placeholders for 0 images and videos"),
    "swapped placeholder": ([user(image(), text("<|video_pad|>"))], "do not write <|image_pad|>"),
}


@pytest.mark.parametrize(("messages", "reason"), MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("family", FREE_SIZES)
def test_malformed_messages(model: Loader, family: str, messages: Any, reason: str) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        model(family, "small", "fp32").prompt(messages)
    assert "\n" not in str(caught.value)


def test_bad_media_are_named(tiny: Model) -> None:
    with pytest.raises(MediaError, match=r"missing\.png: no such file"):
        tiny.prompt([user({"type": "image", "image": "missing.png"})])
    with pytest.raises(MediaError, match="at least one frame"):
        tiny.prompt([user(video(0))])
    with pytest.raises(MediaError, match="aspect ratio"):
        tiny.prompt([user(image(2000, 5))])


def test_messages_are_not_changed(tiny: Model) -> None:
    messages = [user(image(), text("x"))]
    before = [dict(part) for part in messages[0]["content"]]
    collect(messages, tiny.manifest)
    assert messages[0]["content"] == before


GEOMETRY = ImageGeometry(
    patch_size=14,
    temporal_patch_size=2,
    spatial_merge_size=2,
    min_pixels=3136,
    max_pixels=1280 * 784,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
)
sides = st.integers(10, 1500)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(sides, sides, st.integers(1, 5)), min_size=1, max_size=5), st.integers(1, 4000))
def test_fit_keeps_to_the_budget(model: Loader, drawn: list[tuple[int, int, int]], budget: int) -> None:
    manifest = limited(model("qwen2_vl", "small", "fp32"), 4096, **msgspec.structs.asdict(GEOMETRY))
    media = [Media("image", (Image.new("1", (width, height)),) * frames) for width, height, frames in drawn]

    def tokens(bound: int) -> int:
        return sum(resized_grid(item.frames[0].size, len(item.frames), GEOMETRY, bound).tokens(2) for item in media)

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            bounds = fit_pixel_budget(media, manifest, budget)
        except PromptError:
            assert tokens(max(GEOMETRY.min_pixels, GEOMETRY.factor**2)) > budget
            return
    (bound,) = set(bounds)
    assert len(bounds) == len(media)
    assert tokens(bound) <= budget
    assert bool(notes) == (tokens(GEOMETRY.max_pixels) > budget)
    if notes:
        assert notes[0].category is ScaledImageWarning
        assert tokens(bound + GEOMETRY.factor**2) > budget, "a larger bound would have fitted"


@pytest.mark.parametrize("reserve", [0, 64])
def test_images_are_scaled_to_leave_room_for_the_answer(tiny: Model, reserve: int) -> None:
    manifest = limited(tiny, 400)
    messages = [user(image(900, 700), text("Compare"), image(500, 1100), image(60, 60))]
    with pytest.warns(ScaledImageWarning, match=r"scaled down to \d+ pixels each to fit the maximum length of 400"):
        prompt = built(tiny, manifest, messages, reserve)
    assert 300 < len(prompt.ids) + reserve <= 400
    assert prompt.placed[2].grid == tiny.prompt([user(image(60, 60))]).placed[0].grid


def test_a_prompt_of_exactly_the_maximum_length_fits(tiny: Model) -> None:
    messages = [user(text("Read the text."))]
    length = len(tiny.prompt(messages).ids)
    assert len(built(tiny, limited(tiny, length + 5), messages, 5).ids) == length
    with pytest.raises(PromptError, match=f"a prompt of {length} tokens and an answer of 6 do not fit .* {length + 5}"):
        built(tiny, limited(tiny, length + 5), messages, 6)


UNFIT = {
    "text": ([user(text("word " * 9000))], "do not fit the maximum length of 8192"),
    "answer": ([user(text("x")), user(image())], "do not fit the maximum length of 8192"),
    "images": ([user(*[image(1500, 10)] * 60)], "60 images or videos do not fit"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_fit_raises_before_any_graph_runs(tiny: Model, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages, reason = UNFIT[case]
    for name in ("encode", "forward"):
        monkeypatch.setattr(tiny.engine, name, lambda *_: pytest.fail("a graph ran"))
    limit = {"text": 1, "answer": 9000, "images": 8192 - 900}[case]
    with pytest.raises(PromptError, match=reason):
        tiny.generate(messages, max_new_tokens=limit)


def test_images_have_pixel_bounds_of_their_own(tiny: Model) -> None:
    """The bundle's bounds are defaults: one page of a prompt may be larger or smaller than they say."""
    token, high = 28 * 28, tiny.manifest.image.max_pixels
    parts = [
        image(2000, 1500),
        {**image(2000, 1500), "max_pixels": 100 * token},
        {**image(60, 60), "min_pixels": 64 * token},
    ]
    large = {**image(2000, 1500), "max_pixels": 2 * high}
    plain, small, grown, more = (item.span.tokens for item in tiny.prompt([user(*parts, large)]).placed)
    assert 80 <= small <= 100 < plain <= high / token < more <= 2 * high / token
    assert 64 <= grown <= 81
    with pytest.warns(ScaledImageWarning):
        squeezed = built(tiny, limited(tiny, 400), [user(*parts)])
    assert len(squeezed.ids) <= 400
    assert squeezed.placed[1].span.tokens == small, "what is small already is left alone"


@pytest.mark.parametrize(("fps", "step"), [(2.0, 2), (1.0, 4), (0.5, 8), (8.0, 0.5)])
def test_fps_moves_temporal_positions(tiny: Model, fps: float, step: float) -> None:
    """Two tokens per second, two frames per patch; families without a clock count patches."""
    prompt = tiny.prompt([user(video(6, fps=fps))])
    span = prompt.placed[0].span
    times = prompt.positions[0, span.start : span.end].reshape(3, -1)[:, 0]
    assert (times - times[0]).tolist() == [int(index * step) for index in range(3)]


def test_fps_without_a_clock(model: Loader) -> None:
    plain = model("qwen2_vl", "small", "fp32")
    slow, fast = (plain.prompt([user(video(6, fps=fps))]) for fps in (0.5, 24))
    assert np.array_equal(slow.positions, fast.positions)


def test_prefix_keys_tell_apart_what_the_cache_must_not_share(tiny: Model) -> None:
    def keys(*content: Any) -> list[int]:
        return tiny.prompt([user(*content, text("Read."))]).prefix_keys().tolist()

    red = {"type": "image", "image": blank(150, 90, "red")}
    assert keys(image()) == keys(image())
    assert keys(image()) != keys(red)
    assert keys(image(150, 90)) != keys(image(90, 150))
    assert keys(video(4, fps=1)) == keys(video(4, fps=1))
    assert keys(video(4, fps=1)) != keys(video(4, fps=2)), "same frames, other positions"
    assert min(keys(image())) < 0
