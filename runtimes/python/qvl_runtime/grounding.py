"""Where an answer points: boxes and points in pixels of the original image, from the notation of each family.

`qwen`: `<ref>label</ref><box>(x1,y1),(x2,y2)</box>`, 0 to 999 of each side. `qwen2_vl`: the same with the marks
`<|object_ref_start|>` … `<|box_end|>`. `qwen2_5_vl`: JSON objects with `bbox_2d` or `point_2d`, pixels of the
**resized** image. `qwen3_vl` and `qwen3_vl_moe`: such objects with 0 to 1000 of each side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import PromptError
from .preprocess import smart_resize

Size = tuple[int, int]
"""Width and height in pixels."""
MARKS = (
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
)
"""Special tokens that are part of an answer: decoding keeps them."""
QWEN2_5_FACTOR, QWEN2_5_PIXELS = 28, (3136, 12_845_056)
LABELS = ("label", "text_content", "text", "content", "name")


@dataclass(frozen=True)
class Box:
    """A rectangle from (x1, y1) to (x2, y2), x to the right and y down."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Point:
    """A place."""

    label: str
    x: float
    y: float


Region = Box | Point
_Found = tuple[str, list[float]]
"""A label and its 2 (point), 4 (box) or 8 (quadrilateral) numbers, x and y by turns."""


def parse(text: str, family: str, image_size: Size, resized_size: Size | None = None) -> list[Region]:
    """The boxes and points of an answer, in pixels of the image of `image_size`, in the order of the answer.

    `resized_size` is what the model saw; only `qwen2_5_vl` needs it, where None means the checkpoint's default bounds.
    What is cut off or malformed is left out, a truncated list keeps its complete boxes. Raises PromptError for an
    unknown family.
    """
    if family not in _FAMILIES:
        raise PromptError(f"no box notation is known for family {family!r}", fix=f"one of {', '.join(_FAMILIES)}")
    find, thousandths = _FAMILIES[family]
    seen = (1000, 1000) if thousandths else resized_size or _resized(image_size)
    regions = (_region(label, numbers, image_size, seen) for label, numbers in find(text))
    return [region for region in regions if region is not None]


def _resized(image_size: Size) -> Size:
    height, width = smart_resize(image_size[1], image_size[0], QWEN2_5_FACTOR, *QWEN2_5_PIXELS)
    return width, height


def _region(label: str, numbers: Sequence[float], image: Size, seen: Size) -> Region | None:
    """Scaled, put in order and clipped to the image; a quadrilateral becomes the box around it."""
    xs, ys = ([_scaled(value, image[axis], seen[axis]) for value in numbers[axis::2]] for axis in (0, 1))
    if len(numbers) == 2:
        return Point(label, xs[0], ys[0])
    if len(numbers) in (4, 8):
        return Box(label, min(xs), min(ys), max(xs), max(ys))
    return None


def _scaled(value: float, side: int, seen: int) -> float:
    return min(max(value * side / seen, 0.0), float(side))


_REF = r"(?:<ref>|<\|object_ref_start\|>)(?P<ref>.*?)(?:</ref>|<\|object_ref_end\|>|(?=<box>|<\|box_start\|>|$))"
_PAIR = r"\(\s*\d{1,6}\s*,\s*\d{1,6}\s*\)"
_OPEN, _CLOSE = r"(?:<(?:box|quad)>|<\|(?:box|quad)_start\|>)", r"(?:</(?:box|quad)>|<\|(?:box|quad)_end\|>)"
_MARKED = re.compile(
    rf"{_REF}|{_OPEN}\s*(?P<point>{_PAIR})\s*{_CLOSE}|{_OPEN}?\s*"
    rf"(?P<pairs>{_PAIR}(?:\s*,?\s*{_PAIR})+)(?!\s*,\s*\()\s*{_CLOSE}?",
    re.DOTALL,
)


def _marked(text: str) -> Iterator[_Found]:
    """Pairs of coordinates with the last label before them, or, without marks, the text since the last pair."""
    label, end = None, 0
    for match in _MARKED.finditer(text):
        if match["ref"] is not None:
            label = match["ref"].strip()
        else:
            own = text[end : match.start()].strip().splitlines()
            numbers = [float(number) for number in re.findall(r"\d+", match["point"] or match["pairs"])]
            yield label if label is not None else "".join(own[-1:]).strip(" ,;:"), numbers
        end = match.end()


def _json(text: str) -> Iterator[_Found]:
    """Every object with coordinates, wherever it stands: in a list, in a code fence, among prose, cut off."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
            yield from _walk(value, "")
        except (ValueError, RecursionError):
            end = at + 1
            yield from _remains(text[at : _next(text, end)])
        at = text.find("{", end)


def _next(text: str, start: int) -> int | None:
    place = text.find("{", start)
    return None if place < 0 else place


def _walk(value: Any, name: str) -> Iterator[_Found]:
    """Objects inside lists and objects; one without a label of its own goes by the key it stands under."""
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, name)
    elif isinstance(value, dict):
        label = next((value[key] for key in LABELS if isinstance(value.get(key), str)), name)
        for key, inner in value.items():
            if key in ("bbox_2d", "point_2d"):
                yield from ((label, numbers) for numbers in _coordinates(inner))
            else:
                yield from _walk(inner, key)


def _coordinates(value: Any) -> Iterator[list[float]]:
    """[x, y, …] or a list of such lists."""
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        for item in value:
            yield from _coordinates(item)
    elif isinstance(value, list) and all(_is_number(item) for item in value):
        yield [float(item) for item in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


_LIST = re.compile(r'"(?:bbox|point)_2d"\s*:\s*(\[[^\[\]{}]*\])')
_LABEL = re.compile(rf'"(?:{"|".join(LABELS)})"\s*:\s*"((?:[^"\\]|\\.)*)')


def _remains(text: str) -> Iterator[_Found]:
    """An object that does not parse, such as the last one of a truncated answer: whole coordinates are kept."""
    label = _LABEL.search(text)
    for match in _LIST.finditer(text):
        try:
            numbers = json.loads(match[1])
        except ValueError:
            continue
        yield from ((label[1] if label else "", found) for found in _coordinates(numbers))


_FAMILIES: dict[str, tuple[Callable[[str], Iterator[_Found]], bool]] = {
    "qwen": (_marked, True),
    "qwen2_vl": (_marked, True),
    "qwen2_5_vl": (_json, False),
    "qwen3_vl": (_json, True),
    "qwen3_vl_moe": (_json, True),
}
"""How to find coordinates, and whether they are thousandths of each side."""
