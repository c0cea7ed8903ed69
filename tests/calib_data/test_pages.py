"""Every kind of page: its truth lies on the page, under it there is ink, and it is the same for the same seed."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from calib_data.generator import fonts
from calib_data.generator.degrade import MAX_DEGREES, Turn, degrade, turn
from calib_data.generator.kinds import kinds
from calib_data.generator.page import Page, Span

from .helpers import NAMES, pages


def spans(page: Page) -> list[Span]:
    return [span for line in page.lines for span in line]


def contrast(page: Page, span: Span) -> int:
    """Darkest against lightest pixel inside the span's box."""
    left, top, right, bottom = span.box
    gray = np.asarray(page.image.convert("L"), dtype=np.int32)[top:bottom, left:right]
    return int(gray.max() - gray.min()) if gray.size else 0


def assert_truth_on_page(page: Page) -> None:
    width, height = page.image.size
    for span in spans(page):
        left, top, right, bottom = span.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height, (span.text, span.box, page.image.size)
        assert span.text == span.text.strip() != ""
        assert len(span.centers) == len(span.text)
        assert all(left - 2 <= x <= right + 2 for x, _ in span.centers), span


@pytest.mark.parametrize("kind", NAMES)
def test_truth_lies_inside_the_page(kind: str) -> None:
    for page in pages(kind):
        assert page.kind == kind and page.image.mode == "RGB"
        assert_truth_on_page(page)


@pytest.mark.parametrize("kind", NAMES)
def test_boxes_contain_ink(kind: str) -> None:
    for page in pages(kind):
        assert min(contrast(page, span) for span in spans(page)) > 60


@pytest.mark.parametrize("kind", NAMES)
def test_edges_are_paper(kind: str) -> None:
    """Nothing is cut off at the top or the sides."""
    for page in pages(kind, 4):
        gray = np.asarray(page.image.convert("L"), dtype=np.int32)
        frame = np.concatenate([gray[0], gray[:, 0], gray[:, -1]])
        assert frame.max() - frame.min() < 40


@pytest.mark.parametrize("kind", NAMES)
def test_fields_are_spans_of_the_page(kind: str) -> None:
    for page in pages(kind):
        assert set(page.fields.values()) <= set(spans(page))


@pytest.mark.parametrize("kind", NAMES)
def test_same_seed_same_page(kind: str) -> None:
    first, second = pages(kind, 2), pages(kind, 2)
    assert [page.text for page in first] == [page.text for page in second]
    assert [page.image.tobytes() for page in first] == [page.image.tobytes() for page in second]
    assert first[0].text != first[1].text


@pytest.mark.parametrize("kind", sorted(set(NAMES) - {"simple", "vertical"}))
def test_both_languages(kind: str) -> None:
    assert {page.language for page in pages(kind, 12)} == {"en", "zh"}


@pytest.mark.parametrize("kind", NAMES)
def test_damage_keeps_truth(kind: str) -> None:
    for i, page in enumerate(pages(kind, 6)):
        damaged = degrade(page, Random(f"damage/{i}"))
        assert damaged.text == page.text and damaged.image.size == page.image.size
        assert_truth_on_page(damaged)
        assert min(contrast(damaged, span) for span in spans(damaged)) > 25


def uncovered(page: Page) -> bool:
    """Whether a dark pixel lies outside all boxes."""
    dark = np.asarray(page.image.convert("L")) < 110
    for span in spans(page):
        left, top, right, bottom = span.box
        dark[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
    return bool(dark.any())


def test_turn_moves_boxes_with_the_picture() -> None:
    """If all dark pixels were inside boxes (some simple pages have a rule below), they still are."""
    tried = [page for page in pages("simple") if not uncovered(page)]
    assert len(tried) > 3
    for page in tried:
        assert not uncovered(turn(page, MAX_DEGREES)) and not uncovered(turn(page, -MAX_DEGREES))


def test_turn_is_against_the_clock() -> None:
    x, y = Turn(90, (100, 100)).point(100, 50)
    assert (round(x), round(y)) == (50, 0)


def test_turn_refuses_more_than_its_limit() -> None:
    with pytest.raises(ValueError, match="slant"):
        turn(pages("simple", 1)[0], MAX_DEGREES + 1)


def test_every_kind_names_its_fonts() -> None:
    assert all(kind.fonts and set(kind.fonts) <= set(fonts.FONTS) for kind in kinds().values())


def test_missing_font_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fonts.FONTS, "ghost", fonts.Font("/nowhere/ghost.ttf", "fonts-ghost", "none"))
    with pytest.raises(fonts.FontMissing, match="apt-get install fonts-ghost"):
        fonts.load("ghost", 12)


def test_missing_glyph_is_refused() -> None:
    with pytest.raises(fonts.GlyphMissing, match="床"):
        fonts.require("dejavu-sans", "a床b")
