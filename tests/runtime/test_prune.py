"""Leaving out blocks: how it is asked for, where tokens stay, what caches and boxes make of it."""

from __future__ import annotations

import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.errors import PromptError
from qvl_runtime.manifest import MANIFEST, Bounds, EngineEntry, Manifest, Profile
from qvl_runtime.model import Model, load
from qvl_runtime.pdf import Pdf, pdf_pages
from qvl_runtime.positions import Grid, VisionSpan, mrope_positions
from qvl_runtime.prompts import selection
from qvl_runtime.prompts.prompt import (
    Media,
    Prompt,
    ScaledImageWarning,
    build_prompt,
    collect,
    fit_pixel_budget,
    place_media,
)
from qvl_runtime.prompts.selection import Selection
from qvl_runtime.prune.kept import Kept, only
from qvl_runtime.prune.rule import CHOSEN, OFF, RULES, Rule, least_blocks, parse_rule
from qvl_runtime.sessions.feeds import vision_feeds
from tests.conftest import Bundles, Loader
from tests.exporter.test_pruned_parity import image as spotted_part
from tests.exporter.test_pruned_parity import moving, spotted
from tests.oracles.tiny import FREE_SIZES
from tests.pdfs import text_pdf

families = pytest.mark.parametrize("family", FREE_SIZES)
TEXT = {"type": "text", "text": "Read the text."}


@pytest.fixture(scope="module")
def tiny(model: Loader) -> Model:
    return model("qwen2_5_vl", "small", "fp32")


def page() -> Image.Image:
    return spotted(400, 300, 1, 3)


def asked(prune: Any = None, source: Any = None, *more: dict[str, Any]) -> list[dict[str, Any]]:
    part = {"type": "image", "image": page() if source is None else source, "prune": prune}
    return [{"role": "user", "content": [part, *more, TEXT]}]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def logits(model: Model, prompt: Prompt, run: GenerationStats | None = None) -> np.ndarray:
    return model.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), run or GenerationStats())


RULE_NAMES: dict[Any, Rule | None] = {
    None: None,
    "off": OFF,
    False: OFF,
    "exact": Rule(0.0),
    "scan": Rule(8.0),
    True: CHOSEN,
    3: Rule(3.0),
    2.5: Rule(2.5),
    "2.5": Rule(2.5),
    np.float32(4): Rule(4.0),
    "0": RULES["exact"],
}


@pytest.mark.parametrize("given", RULE_NAMES)
def test_rules(given: Any) -> None:
    assert parse_rule(given) == RULE_NAMES[given]


@pytest.mark.parametrize(
    "given", ["exakt", "", -1, 256, "1_0", "nan", float("nan"), float("inf"), [1], b"exact", 10**400]
)
def test_other_rules_are_refused(given: Any) -> None:
    with pytest.raises(PromptError, match=r"^--prune must be off, exact, scan or a number from 0 to 255, got .*$"):
        parse_rule(given, "--prune")


def test_names_of_rules() -> None:
    assert [str(rule) for rule in (OFF, Rule(0), Rule(8), Rule(2.5))] == ["off", "exact", "scan", "2.5"]


@families
@pytest.mark.parametrize("source", [noise(330, 200), noise(60, 60)], ids=["large", "small"])
def test_nothing_to_leave_out_changes_nothing(model: Loader, family: str, source: Image.Image) -> None:
    """Ids, positions, cache keys and logits are those without the option, to the bit."""
    ours = model(family, "small", "fp32")
    plain, pruned = (ours.prompt(asked(rule, source)) for rule in (None, "exact"))
    assert pruned.placed[0].kept is None
    for one, other in ((plain.ids, pruned.ids), (plain.positions, pruned.positions)):
        assert np.array_equal(one, other)
    assert np.array_equal(plain.prefix_keys(), pruned.prefix_keys())
    first = logits(ours, plain)
    ours.clear()
    assert np.array_equal(first, logits(ours, pruned))


class Counted:
    """A page that counts how often it is resized, as a page of a PDF is drawn for each."""

    def __init__(self) -> None:
        self.image, self.sizes = page(), list[tuple[int, int]]()
        self.size = self.image.size

    def tobytes(self) -> bytes:
        return self.image.tobytes()

    def copy(self) -> Image.Image:
        return self.image

    def resize(self, size: tuple[int, int], resample: int) -> Image.Image:
        self.sizes.append(size)
        return self.image.resize(size, resample)


def test_pixels_are_resized_once(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that blocks were chosen by go to the tower, and are then forgotten; beyond a limit they are not kept."""
    for limit, times in ((1 << 20, [1, 2]), (0, [2, 3])):
        monkeypatch.setattr(selection, "HELD_BYTES", limit)
        item = Media("image", (counted := Counted(),), prune=Rule(0.0))
        placed = place_media(item, 0, 10**6, tiny.manifest, Selection(tiny.manifest))
        assert placed.kept
        patches = []
        for expected in times:
            patches.append(placed.patches(tiny.manifest.image).pixel_values)
            assert len(counted.sizes) == expected
        assert np.array_equal(*patches)


@families
def test_keeping_all_cells_by_name_changes_nothing(model: Loader, family: str) -> None:
    """The way through chosen cells, all of which are chosen, is the way without a choice."""
    image, grid = model(family, "small", "fp32").manifest.image, Grid(2, 22, 36)
    feeds = vision_feeds(image, grid)
    chosen = only(feeds, np.arange(11 * 18), image)
    assert chosen.keys() == feeds.keys()
    for name, array in feeds.items():
        assert chosen[name].dtype == array.dtype
        if name != "window_gather":  # padding may be anywhere
            assert np.array_equal(chosen[name], array), name


@families
def test_inputs_of_kept_cells(model: Loader, family: str) -> None:
    """Rows, columns and interpolated places are those in the whole grid; windows hold the same patches."""
    image, grid = model(family, "small", "fp32").manifest.image, Grid(2, 22, 36)
    cells = np.flatnonzero(np.random.default_rng(1).random(11 * 18) < 0.3)
    cells = cells[(cells >= 4 * 18) | (cells % 18 >= 4)]  # the first window is empty
    whole, chosen = vision_feeds(image, grid), vision_feeds(image, grid, cells)
    patches = [4 * cell + corner for cell in cells for corner in range(4)]
    assert np.array_equal(chosen["patch_positions"], whole["patch_positions"][:, patches])
    for name in ("interpolation_indices", "interpolation_weights"):
        assert name not in whole or np.array_equal(chosen[name], whole[name][:, patches])
    if image.window:
        windows = [[patch for patch in window if patch in patches] for window in members(whole, image.window)]
        found = [[patches[patch] for patch in window] for window in members(chosen, image.window)]
        assert found == [window for window in windows if window]


def members(feeds: dict[str, np.ndarray], side: int) -> list[list[int]]:
    """The patches in each window of a frame."""
    slots = feeds["window_gather"].reshape(-1, (2 * side) ** 2)
    lengths = feeds["window_lengths"][: len(slots)]
    scattered = feeds["window_gather"][feeds["window_scatter"]]
    assert scattered.tolist() == list(range(len(scattered)))
    return [row[:length].tolist() for row, length in zip(slots, lengths, strict=True)]


def test_positions_of_kept_cells_and_of_text() -> None:
    kept = mrope_positions(9, [VisionSpan(2, 1, 3, 4, kept=(0, 5, 11))])
    assert kept[:, :2].tolist() == [[0, 1]] * 3
    assert kept[:, 2:5].tolist() == [[2, 2, 2], [2, 3, 4], [2, 3, 5]]
    assert kept[:, 5:].tolist() == [[6, 7, 8, 9]] * 3  # after 4 columns, as if nothing were left out


def test_cells_of_a_video() -> None:
    kept = Kept(((0, 2), (1,), (0, 2)))
    assert kept.tokens == 5
    assert kept.flat(1, 2, 6) == (1, 6, 8)
    assert [kept.first_row(frame) for frame in range(3)] == [0, 2, 3]
    assert [(frames, cells.tolist()) for frames, cells in kept.groups()] == [([0, 2], [0, 2]), ([1], [1])]
    assert Kept.of(np.ones((2, 3, 4), bool)) is None


def test_where_the_rule_comes_from(bundle: Bundles, tmp_path: Path) -> None:
    """The part's own, else the one given to `load`, else the bundle's, else none."""
    original = bundle("qwen2_5_vl", "small", "fp32")
    recorded = with_image(original, tmp_path, prune="exact")
    counts = {}
    for name, directory, loaded in (
        ("plain", original, None),
        ("bundle", recorded, None),
        ("load", original, "exact"),
        ("off", recorded, "off"),
    ):
        with load(directory, threads=1, prune=loaded) as model:
            for part in (None, "off", "exact"):
                counts[name, part] = len(model.prompt(asked(part)).ids)
    few, many = counts["plain", "exact"], counts["plain", None]
    assert few < many
    assert {key for key, count in counts.items() if count == few} == {
        *((name, "exact") for name in ("plain", "bundle", "load", "off")),
        ("bundle", None),
        ("load", None),
    }
    assert set(counts.values()) == {few, many}


def with_image(bundle: Path, directory: Path, **changes: Any) -> Path:
    """The bundle with another image geometry."""
    copy = shutil.copytree(bundle, directory / "copy")
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=Manifest)
    image = msgspec.structs.replace(manifest.image, **changes)
    (copy / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, image=image)))
    return copy


@pytest.mark.parametrize("prune", ["exakt", -1, 300])
def test_load_refuses(bundle: Bundles, prune: Any) -> None:
    with pytest.raises(PromptError, match=r"^prune must be off, exact, scan or a number"):
        load(bundle("qwen2_5_vl", "small", "fp32"), prune=prune)


def test_parts_are_checked(tiny: Model) -> None:
    with pytest.raises(PromptError, match=r"^prune must be .*, got 'exakt'$"):
        tiny.prompt(asked("exakt"))
    with pytest.raises(PromptError, match="unknown key 'prune'"):
        tiny.prompt([{"role": "user", "content": [{**TEXT, "prune": "exact"}]}])


def test_images_of_one_size_are_refused(bundle: Bundles, model: Loader) -> None:
    """Qwen-VL's tokens are no blocks of the image."""
    message = r"^prune='exact', but this model sees every image in \d+ × \d+ pixels .*\(leave prune out\)$"
    with pytest.raises(PromptError, match=message):
        load(bundle("qwen", "small", "fp32"), prune="exact")
    with pytest.raises(PromptError, match=message):
        model("qwen", "small", "fp32").prompt(asked("exact"))
    assert len(model("qwen", "small", "fp32").prompt(asked("off")).ids)


def test_tokens_left_out_are_counted(tiny: Model) -> None:
    counts = {}
    for rule in ("off", "exact"):
        stream = tiny.stream(asked(rule), max_new_tokens=2)
        list(stream)
        counts[rule] = stream.run.counts
    assert counts["off"].pruned == 0 < counts["exact"].pruned
    assert counts["exact"].image + counts["exact"].pruned == counts["off"].image
    assert counts["exact"].prompt + counts["exact"].pruned == counts["off"].prompt


@families
def test_caches_tell_rules_apart(model: Loader, family: str) -> None:
    """No key or feature of one is used for the other; the same rule again reuses the whole prompt."""
    ours = model(family, "small", "fp32")
    ours.clear()
    plain, pruned = (ours.prompt(asked(rule)) for rule in ("off", "exact"))
    fresh = logits(ours, pruned)
    ours.clear()
    logits(ours, plain)
    run = GenerationStats()
    assert np.array_equal(logits(ours, pruned, run), fresh)
    recurrent = ours.manifest.recurrent
    assert run.counts.reused == (0 if recurrent else plain.placed[0].span.start)
    again = GenerationStats()
    assert np.array_equal(logits(ours, ours.prompt(asked("exact")), again).argmax(), fresh.argmax())
    least = pruned.placed[0].span.end if recurrent else len(pruned.ids) - 1
    assert least <= again.counts.reused < len(pruned.ids)
    assert plain.placed[0].key != pruned.placed[0].key


def test_equal_choices_share_features(tiny: Model) -> None:
    """A rule that keeps the same blocks gives the same features, whatever it is called."""
    one, other = (tiny.prompt(asked(rule)).placed[0] for rule in ("exact", 0.001))
    assert one.kept == other.kept
    assert one.key == other.key


def test_a_second_question_reuses_the_page(tiny: Model) -> None:
    tiny.clear()
    first, run = tiny.prompt(asked("exact")), GenerationStats()
    logits(tiny, first)
    messages = asked("exact")
    messages[0]["content"][-1] = {"type": "text", "text": "What is the total?"}
    logits(tiny, tiny.prompt(messages), run)
    assert run.counts.reused >= first.placed[0].span.end
    assert run.times.vision < 1e-3


def test_boxes_are_of_the_page(tiny: Model) -> None:
    """The grid that answers are scaled by is the whole one."""
    plain, pruned = (tiny.prompt(asked(rule)).placed[0] for rule in ("off", "exact"))
    answer = '[{"bbox_2d": [10, 20, 110, 220], "label": "a"}]'
    assert tiny.regions(answer, plain) == tiny.regions(answer, pruned)


def test_features_on_request_are_whole(bundle: Bundles, tiny: Model) -> None:
    with load(bundle("qwen2_5_vl", "small", "fp32"), threads=1, prune="exact") as model:
        assert np.array_equal(model.encode(page()), tiny.encode(page()))


def test_pages_of_a_tiff(tiny: Model, tmp_path: Path) -> None:
    """Each page has its own choice."""
    others = [noise(200, 200), Image.new("RGB", (300, 300), "white")]
    page().save(tmp_path / "p.tif", save_all=True, append_images=others)
    placed = tiny.prompt(asked("exact", tmp_path / "p.tif")).placed
    assert placed[1].kept is None
    assert placed[0].kept is not None
    assert placed[2].span.tokens == 6  # its corners and those around the first block


def test_every_image_its_own(tiny: Model) -> None:
    content = [{**spotted_part(400, 300, 1, 3), "prune": rule} for rule in ("off", "exact", "scan", None)]
    spans = [item.span for item in tiny.prompt([{"role": "user", "content": [*content, TEXT]}]).placed]
    assert [span.kept is None for span in spans] == [True, False, False, True]
    assert all(one.end <= other.start for one, other in pairwise(spans))


@families
def test_videos(model: Loader, family: str) -> None:
    """What stands still is seen once; every temporal patch keeps a few blocks, so that each has its place."""
    ours = model(family, "small", "fp32")
    prompt = ours.prompt([{"role": "user", "content": [{**moving(), "prune": "exact"}, TEXT]}])
    kept = prompt.placed[0].kept
    assert kept is not None
    assert len(kept.frames) == 4
    assert len(kept.frames[1]) < len(kept.frames[0])
    assert len(kept.frames[3]) >= 4
    assert sum(item.span.tokens for item in prompt.placed) == kept.tokens
    rows = [item.first_row for item in prompt.placed]
    assert rows == ([kept.first_row(i) for i in range(4)] if len(rows) > 1 else [0])


def limited(model: Model, max_length: int) -> Manifest:
    llm = msgspec.structs.replace(model.manifest.llm, max_length=max_length)
    return msgspec.structs.replace(model.manifest, llm=llm)


def test_pages_that_fit_only_without_their_paper(tiny: Model) -> None:
    """They keep their size, where the whole page would be scaled down."""
    messages, short = asked("exact"), limited(tiny, 120)
    whole = len(tiny.prompt(asked("off")).ids)
    full = tiny.prompt(messages)
    assert len(full.ids) < 120 < whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = build_prompt(messages, short, tiny._template.render, tiny.token_ids, 0)
    assert prompt.placed[0].grid == full.placed[0].grid
    with pytest.warns(ScaledImageWarning):
        build_prompt(asked("off"), short, tiny._template.render, tiny.token_ids, 0)


def test_pages_that_do_not_fit_even_then(tiny: Model) -> None:
    short = limited(tiny, len(tiny.prompt(asked("exact")).ids) - 5)
    with pytest.warns(ScaledImageWarning):
        prompt = build_prompt(asked("exact"), short, tiny._template.render, tiny.token_ids, 0)
    assert len(prompt.ids) <= short.llm.max_length


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pages of PDFs that are drawn, in their order."""
    pages, draw = list[int](), Pdf.draw

    def counted(pdf: Pdf, index: int, dpi: int) -> Image.Image:
        pages.append(index)
        return draw(pdf, index, dpi)

    monkeypatch.setattr(Pdf, "draw", counted)
    return pages


def test_pages_of_a_pdf_are_drawn_once_to_fit(
    tiny: Model, drawn: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If not all can be kept, the others are drawn again; the prompt is the same. Then nothing is kept."""
    pdf = text_pdf(tmp_path / "a.pdf", [["Read me"] * count for count in (1, 9, 30)])
    messages = [{"role": "user", "content": [{"type": "image", "image": each} for each in pdf_pages(pdf)]}]

    def built() -> Prompt:
        drawn.clear()
        with pytest.warns(ScaledImageWarning):
            return build_prompt(
                messages, limited(tiny, 120), tiny._template.render, tiny.token_ids, 0, prune=RULES["exact"]
            )

    once = built()
    assert sorted(drawn) == [0, 1, 2] and len(once.ids) <= 120
    width, height = once.placed[0].media.frames[0].size
    monkeypatch.setattr(selection, "DRAWN_BYTES", 3 * width * height)
    again = built()
    assert drawn.count(0) == 1 and drawn.count(1) > 1
    np.testing.assert_array_equal(once.ids, again.ids)
    assert [item.grid for item in once.placed] == [item.grid for item in again.placed]


def test_no_page_is_drawn_to_fit_if_all_fit_whole(tiny: Model, drawn: list[int], tmp_path: Path) -> None:
    (page,) = pdf_pages(text_pdf(tmp_path / "a.pdf", [["Read me"]]), dpi=40)
    (media,) = collect(asked("exact", page), tiny.manifest)[1]
    assert fit_pixel_budget([media], tiny.manifest, 1000, Selection(tiny.manifest)) and not drawn


@pytest.mark.parametrize(("patches", "expected"), [(4, 6), (16, 6), (40, 10), (41, 11)])
def test_engines_get_as_many_as_they_were_built_for(tiny: Model, patches: int, expected: int) -> None:
    axes = {"patches": Bounds(min=patches, opt=400, max=4000), "frames": Bounds(min=1, opt=1, max=1)}
    engine = EngineEntry(file="e", builder=None, compute_capabilities=[86], profiles=[Profile(name="page", axes=axes)])
    vision = msgspec.structs.replace(tiny.manifest.graphs["vision"], engine=engine)
    manifest = msgspec.structs.replace(tiny.manifest, graphs={**tiny.manifest.graphs, "vision": vision})
    assert least_blocks(manifest) == max(4, -(-patches // 4))
    prompt = build_prompt(
        asked("exact", Image.new("RGB", (400, 400), "white")), manifest, tiny._template.render, tiny.token_ids, 0
    )
    assert prompt.placed[0].span.tokens == expected


def test_a_clean_page_of_text_is_half_paper(tiny: Model) -> None:
    """A drawn page: most of the paper goes, and no block with ink on it that its neighbours do not show."""
    sheet = Image.new("RGB", (620, 877), "white")
    draw = ImageDraw.Draw(sheet)
    for line in range(12):
        draw.text((60, 60 + 24 * line), "The quick brown fox jumps over the lazy dog 0123456789")
    placed = tiny.prompt(asked("exact", sheet)).placed[0]
    assert placed.span.tokens < placed.span.cells / 2
    factor = tiny.manifest.image.factor
    side = placed.grid.w * tiny.manifest.image.patch_size, placed.grid.h * tiny.manifest.image.patch_size
    pixels = np.asarray(sheet.resize(side, Image.Resampling.BICUBIC))
    blocks = pixels.reshape(side[1] // factor, factor, side[0] // factor, factor, 3).transpose(0, 2, 1, 3, 4)
    ink = np.flatnonzero((blocks != 255).any(axis=(2, 3, 4)))
    assert placed.span.kept is not None
    assert set(ink.tolist()) <= set(placed.span.kept)
