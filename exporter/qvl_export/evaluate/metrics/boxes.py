"""Boxes in answers and labels, in pixels of the page, parsed as the runtime parses them."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_runtime import grounding

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
PIXELS = "qwen2_5_vl"
"""The family whose answers have the notation of labels: JSON `bbox_2d` in pixels of the resized image."""


@dataclass(frozen=True)
class PageGeometry:
    """A page of `size` that a model of `family` saw at size `resized`, both (width, height)."""

    family: str
    size: tuple[int, int]
    resized: tuple[int, int]

    @staticmethod
    def original(size: tuple[int, int]) -> PageGeometry:
        """Returns the geometry of boxes in pixels of the page itself, as in labels."""
        return PageGeometry(PIXELS, size, size)


def parse_boxes(text: str, page: PageGeometry) -> list[Box]:
    """Returns every box of an answer in its family's notation, clipped to the page."""
    found = grounding.parse(text, page.family, page.size, page.resized)
    return [(each.x1, each.y1, each.x2, each.y2) for each in found if isinstance(each, grounding.Box)]


def intersection_over_union(a: Box, b: Box) -> float:
    """Returns area of overlap / area of union; 0 if the boxes do not overlap or one has no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)
