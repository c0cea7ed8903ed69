"""Boxes: parsing, overlap, matching."""

from __future__ import annotations

import pytest

from qvl_export.evaluate.metrics.boxes import LABELS, PageGeometry, intersection_over_union, matched_ious, parse_boxes
from qvl_export.evaluate.metrics.scores import score
from qvl_runtime.manifest import BoxNotation

MARKS = BoxNotation(syntax="marks", unit="thousandth")
PAGE = PageGeometry.original((400, 300))


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        (MARKS, "<|object_ref_start|>sum<|object_ref_end|><|box_start|>(250,100),(500,200)<|box_end|>"),
        (MARKS, "(250,100),(500,200)"),
        (LABELS, '[{"bbox_2d": [112, 28, 224, 56], "label": "sum"}]'),
        (BoxNotation(syntax="json", unit="thousandth"), '```json\n[{"bbox_2d": [250, 100, 500, 200]}]\n```'),
    ],
)
def test_boxes_of_every_notation_are_pixels_of_the_image(notation: BoxNotation, text: str) -> None:
    assert parse_boxes(text, PageGeometry(notation, (400, 300), (448, 280))) == [(100, 30, 200, 60)]


def test_intersection_over_union_counts_pixels() -> None:
    def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    a, b = (2, 3, 9, 8), (5, 1, 12, 6)
    assert intersection_over_union(a, b) == len(cells(a) & cells(b)) / len(cells(a) | cells(b))
    assert intersection_over_union(a, (20, 20, 30, 30)) == 0


def test_grounding_scores_every_true_box_once() -> None:
    truth = '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [20, 0, 30, 10]}]'
    swapped = '[{"bbox_2d": [20, 0, 30, 10]}, {"bbox_2d": [0, 0, 10, 5]}, {"bbox_2d": [0, 0, 10, 10]}]'
    assert score("grounding", swapped, [truth], PAGE) == {"iou": (1.5, 2), "acc50": (2, 2), "parsed": (1, 1)}
    assert score("grounding", "nowhere", [truth], PAGE) == {"iou": (0, 2), "acc50": (0, 2), "parsed": (0, 1)}


def test_boxes_are_paired_from_the_best() -> None:
    """Each of two true boxes overlaps both of the answer's."""
    truth = '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [5, 0, 15, 10]}]'
    moved = '[{"bbox_2d": [5, 0, 15, 10]}, {"bbox_2d": [1, 0, 11, 10]}]'
    assert matched_ious(moved, truth, PAGE) == [90 / 110, 1]


@pytest.mark.parametrize(
    ("given", "ious"),
    [  # the true box of the left is taken, and its next best box is for the other; the answer's best box is taken
        ('[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [2, 0, 12, 10]}]', [1, 40 / 160]),
        ('[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [40, 0, 50, 10]}]', [1, 0]),
    ],
)
def test_no_box_is_paired_twice(given: str, ious: list[float]) -> None:
    truth = '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [8, 0, 18, 10]}]'
    assert matched_ious(given, truth, PAGE) == ious


@pytest.mark.parametrize(("right", "hit"), [(5, 1), (4, 0), (3, 0)])
def test_a_box_is_hit_if_half_is_shared(right: int, hit: int) -> None:
    given = f'[{{"bbox_2d": [0, 0, {right}, 10]}}]'
    assert score("grounding", given, ['[{"bbox_2d": [0, 0, 10, 10]}]'], PAGE)["acc50"] == (hit, 1)


def test_grounding_counts_the_truth_that_fits_best() -> None:
    near, far = '[{"bbox_2d": [0, 0, 10, 10]}]', '[{"bbox_2d": [20, 0, 30, 10]}, {"bbox_2d": [0, 0, 1, 1]}]'
    assert score("grounding", near, [far, near], PAGE) == {"iou": (1, 1), "acc50": (1, 1), "parsed": (1, 1)}
    assert score("grounding", far, [near, far], PAGE) == {"iou": (2, 2), "acc50": (2, 2), "parsed": (1, 1)}
