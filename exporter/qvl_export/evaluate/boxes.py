"""Boxes in answers of the families, in pixels of the original image; the one place that knows their notations."""

from __future__ import annotations

import re
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
THOUSANDTHS = 1000
RELATIVE = ("qwen_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe")
"""Families whose coordinates are thousandths of the image; others give pixels of the resized image."""
_NUMBER = r"\s*(-?\d{1,7}(?:\.\d{1,7})?)\s*"
_MARKED = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
_JSON = re.compile(rf'"bbox(?:_2d)?"\s*:\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]')


@dataclass(frozen=True)
class PageGeometry:
    """Width and height of the image, and of the space its answers count in."""

    size: tuple[int, int]
    space: tuple[float, float]

    @staticmethod
    def original(size: tuple[int, int]) -> PageGeometry:
        """Answers in pixels of the image itself, as truths are."""
        return PageGeometry(size, (float(size[0]), float(size[1])))

    @staticmethod
    def of(family: str, size: tuple[int, int], resized: tuple[int, int]) -> PageGeometry:
        """`resized` is the size the model saw."""
        if family in RELATIVE:
            return PageGeometry(size, (THOUSANDTHS, THOUSANDTHS))
        return PageGeometry(size, (float(resized[0]), float(resized[1])))


def parse_boxes(text: str, page: PageGeometry) -> list[Box]:
    """Every `(x1,y1),(x2,y2)` (with or without `<|box_start|>`) or JSON `bbox_2d`, in pixels of the image."""
    x, y = page.size[0] / page.space[0], page.size[1] / page.space[1]
    boxes = []
    for match in _JSON.finditer(text) if '"bbox' in text else _MARKED.finditer(text):
        left, top, right, bottom = map(float, match.groups())
        boxes.append((left * x, top * y, right * x, bottom * y))
    return boxes


def intersection_over_union(a: Box, b: Box) -> float:
    """Area of overlap over area of union; 0 for boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)
