"""Scores of boxes: answers and labels in pixels of the page, parsed as the runtime parses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qvl_runtime import grounding
from qvl_runtime.manifest import BoxNotation

from .fraction import Fraction

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
LABELS = BoxNotation(syntax="json", unit="pixel")
"""The notation of labels: JSON `bbox_2d` in pixels of the image."""
HIT_IOU = 0.5


@dataclass(frozen=True)
class PageGeometry:
    """A page of `size` that a model with this notation saw at size `resized`, both (width, height)."""

    notation: BoxNotation
    size: tuple[int, int]
    resized: tuple[int, int]

    @staticmethod
    def original(size: tuple[int, int]) -> PageGeometry:
        """Returns the geometry of boxes in pixels of the page itself, as in labels."""
        return PageGeometry(LABELS, size, size)


def parse_boxes(text: str, page: PageGeometry) -> list[Box]:
    """Returns every box of an answer in its model's notation, clipped to the page."""
    found = grounding.parse(text, page.notation, page.size, page.resized)
    return [(each.x1, each.y1, each.x2, each.y2) for each in found if isinstance(each, grounding.Box)]


def intersection_over_union(a: Box, b: Box) -> float:
    """Returns area of overlap / area of union; 0 if the boxes do not overlap or one has no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)


def mean_iou(answer: str, truths: Sequence[str], page: PageGeometry) -> Fraction:
    """Returns (sum of the true boxes' IoUs, number of true boxes)."""
    ious = _best_ious(answer, truths, page)
    return sum(ious), float(len(ious))


def accuracy_at_50(answer: str, truths: Sequence[str], page: PageGeometry) -> Fraction:
    """Returns (true boxes with an IoU of at least 0.5, number of true boxes)."""
    ious = _best_ious(answer, truths, page)
    return float(sum(iou >= HIT_IOU for iou in ious)), float(len(ious))


def boxes_parsed(answer: str, page: PageGeometry) -> Fraction:
    """Returns (1, 1) if the answer has a box that can be parsed, else (0, 1)."""
    return float(bool(parse_boxes(answer, page))), 1.0


def _best_ious(answer: str, truths: Sequence[str], page: PageGeometry) -> list[float]:
    """Returns the IoUs with the truth whose mean IoU is highest."""
    return max((matched_ious(answer, truth, page) for truth in truths), key=lambda ious: sum(ious) / len(ious))


def matched_ious(answer: str, truth: str, page: PageGeometry) -> list[float]:
    """Returns the IoU of every true box with its matched box; pairs are matched greedily, best first.

    Only the first n boxes of the answer count, for n true boxes. A true box without a match has IoU 0.
    """
    wanted = parse_boxes(truth, PageGeometry.original(page.size))
    free, left = parse_boxes(answer, page)[: len(wanted)], list(range(len(wanted)))
    ious = [0.0] * len(wanted)
    pairs = sorted(((intersection_over_union(wanted[t], box), t, b) for t in left for b, box in enumerate(free)))
    used: set[int] = set()
    for iou, t, b in reversed(pairs):
        if t in left and b not in used:
            ious[t] = iou
            left.remove(t)
            used.add(b)
    return ious
