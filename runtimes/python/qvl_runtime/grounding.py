"""Parses boxes and points in answers, from the model's notation to pixels of the original image.

The notation is that of the bundle's manifest (`manifest.BoxNotation`). Bundles before schema 10 do not have it: theirs
is known by the name of their family.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import PromptError
from .manifest import BoxNotation, Manifest
from .resize import smart_resize

Size = tuple[int, int]
"""Width and height in pixels."""
MARKS = (
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
)
"""Special tokens that are part of an answer: decoding keeps them."""
QWEN2_5_FACTOR, QWEN2_5_PIXELS = 28, (3136, 12_845_056)
KEYS = ("bbox_2d", "point_2d")
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
    """A point, x to the right and y down."""

    label: str
    x: float
    y: float


Region = Box | Point
_Found = tuple[str, list[float]]
"""A label and its 2 (point), 4 (box) or 8 (quadrilateral) numbers, x and y alternating."""


def notation_of(manifest: Manifest) -> BoxNotation:
    """Returns the notation of a bundle's answers; raises PromptError if neither manifest nor family says it."""
    return manifest.boxes or _of_family(manifest.family)


def _of_family(family: str) -> BoxNotation:
    if family not in _FAMILIES:
        raise PromptError(f"no box notation is known for family {family!r}", fix=f"one of {', '.join(_FAMILIES)}")
    return _FAMILIES[family]


def parse(text: str, notation: BoxNotation | str, image_size: Size, resized_size: Size | None = None) -> list[Region]:
    """Returns the boxes and points of an answer in their order, in pixels of the image of `image_size`.

    `notation` is that of a bundle (`notation_of`), or the name of a family. `resized_size` is the size the model saw,
    for notations in its pixels; None means Qwen2.5-VL's default bounds. Truncated or malformed boxes are skipped; a
    truncated list keeps its complete boxes. Raises PromptError for an unknown family.
    """
    if isinstance(notation, str):
        notation = _of_family(notation)
    thousandths = notation.unit == "thousandth"
    reference = (1000, 1000) if thousandths else resized_size or _default_resized(image_size)
    regions = (_region(label, numbers, image_size, reference) for label, numbers in _SYNTAX[notation.syntax](text))
    return [region for region in regions if region is not None]


def _default_resized(image_size: Size) -> Size:
    height, width = smart_resize(image_size[1], image_size[0], QWEN2_5_FACTOR, *QWEN2_5_PIXELS)
    return width, height


def _region(label: str, numbers: Sequence[float], image: Size, reference: Size) -> Region | None:
    """Returns a region scaled and clipped to the image, corners in order; a quadrilateral becomes its bounding box."""
    xs, ys = ([_scaled(value, image[axis], reference[axis]) for value in numbers[axis::2]] for axis in (0, 1))
    if len(numbers) == 2:
        return Point(label, xs[0], ys[0])
    if len(numbers) in (4, 8):
        return Box(label, min(xs), min(ys), max(xs), max(ys))
    return None


def _scaled(value: float, side: int, reference: int) -> float:
    return min(max(value * side / reference, 0.0), float(side))


_TOKEN = re.compile(
    r"(?P<R><ref>|<\|object_ref_start\|>)|(?P<r></ref>|<\|object_ref_end\|>)"
    r"|(?P<O><(?:box|quad)>|<\|(?:box|quad)_start\|>)|(?P<C></(?:box|quad)>|<\|(?:box|quad)_end\|>)"
    r"|(?P<P>\(\s*\d{1,6}\s*,\s*\d{1,6}\s*\))"
)
"""Marks and coordinate pairs, one letter per kind. Between them may be a comma (,), a truncated pair (x), or text (t);
whitespace is ignored."""
_SENTENCE = re.compile(r"R[^rO]*r?|OPC|O?P(?:,?P)+x?C?")
"""A label, a point, or a box; a box whose last pair is truncated (x) is skipped."""


def _parse_marked(text: str) -> Iterator[_Found]:
    """Yields coordinates with the last label before them or, without labels, the text since the last coordinates."""
    kinds, spans = _tokens(text)
    label, end = None, 0
    for match in _SENTENCE.finditer(kinds):
        first, last = match.span()
        if match[0][0] == "R":
            stop = spans[last - 1][0] if match[0][-1] == "r" else spans[last][0]
            label = text[spans[first][1] : stop].strip()
        elif "x" not in match[0]:
            own = text[end : spans[first][0]].strip().splitlines()
            pairs = (text[slice(*spans[index])] for index in range(first, last) if kinds[index] == "P")
            numbers = [float(number) for pair in pairs for number in re.findall(r"\d+", pair)]
            yield label if label is not None else "".join(own[-1:]).strip(" ,;:"), numbers
        else:
            continue
        end = spans[last - 1][1]


def _tokens(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Returns the kinds of the text's tokens and their spans; the last span is the end of the text."""
    kinds, spans, index = "", [], 0
    found = [(match.lastgroup or "", match.span()) for match in _TOKEN.finditer(text)]
    for kind, span in [*found, ("", (len(text), len(text)))]:
        if between := _between(text[index : span[0]]):
            kinds += between
            spans.append((index, span[0]))
        kinds += kind
        spans.append(span)
        index = span[1]
    return kinds, spans


def _between(text: str) -> str:
    text = text.strip()
    if text.startswith(","):
        rest = text[1:].lstrip()
        return "x" if rest.startswith("(") else "t" if rest else ","
    return "t" if text else ""


MAX_FAILED = 500
"""After this many objects that do not parse, none is parsed as JSON any more: each failure rescans earlier text."""


def _parse_json(text: str) -> Iterator[_Found]:
    """Yields the coordinates of every object: in a list, in a code fence, within prose, or truncated."""
    decoder, index, failed, wasted = json.JSONDecoder(), text.find("{"), 0, 0
    while index >= 0:
        end = index + 1
        try:
            if failed >= MAX_FAILED or wasted > 4 * len(text):
                raise ValueError
            value, end = decoder.raw_decode(text, index)
        except (ValueError, RecursionError) as error:
            failed, wasted = failed + 1, wasted + getattr(error, "pos", len(text)) - index
            following = text.find("{", end)
            yield from _parse_malformed(text, index, len(text) if following < 0 else following)
        else:
            yield from _nested_coordinates(value, _key_before(text, index))
        index = text.find("{", end)


def _nested_coordinates(value: Any, name: str) -> Iterator[_Found]:
    """Yields coordinates of nested objects, in order; the label of an object without one is the key that holds it."""
    stack: list[tuple[Any, str, bool]] = [(value, name, False)]
    while stack:
        value, name, is_coordinates = stack.pop()
        if is_coordinates:
            yield from ((name, numbers) for numbers in _coordinates(value))
        elif isinstance(value, list):
            stack += [(item, name, False) for item in reversed(value)]
        elif isinstance(value, dict):
            label = next((value[key] for key in LABELS if isinstance(value.get(key), str)), name)
            inner = [(item, label if key in KEYS else key, key in KEYS) for key, item in value.items()]
            stack += reversed(inner)


def _coordinates(value: Any) -> Iterator[list[float]]:
    """Yields the numbers of [x, y, …] or of a list of such lists; each list and number may be given as a string."""
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        for item in value:
            if numbers := _numbers(item):
                yield numbers
    elif numbers := _numbers(value):
        yield numbers


def _numbers(value: Any) -> list[float]:
    """Returns the numbers of a list, or of a string of numbers only; empty if any element is not a number."""
    if isinstance(value, str):
        value = re.split(r"\s*,\s*", value.translate(_NO_BRACKETS).strip().rstrip(",").rstrip())
    found = [_number(item) for item in value] if isinstance(value, list) else []
    return [number for number in found if number is not None] if None not in found else []


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if finite else None


_NO_BRACKETS = dict.fromkeys(map(ord, "[]()"))
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{0,20})?")
_QUOTED = r"""(?:"((?:[^"\\]|\\.)*)|'((?:[^'\\]|\\.|'(?!\s*(?:[,:}\]]|$)))*))"""
"""A string in quotes of either kind, possibly truncated; an apostrophe inside single quotes does not end it."""
_LIST = re.compile(r"""["'](?:bbox|point)_2d["']\s*:\s*(\[(?:[^\[\]{}]|\[[^\[\]{}]*\])*\]|["'][^"'{}]*["'])""")
_LABEL = re.compile(rf"""["'](?:{"|".join(LABELS)})["']\s*:\s*{_QUOTED}""")
LONGEST_KEY = 200


def _key_before(text: str, index: int) -> str:
    """Returns the key that holds the object at `index`, directly or as the first of a list; else an empty text."""
    before = text[max(0, index - LONGEST_KEY) : index].rstrip().removesuffix("[").rstrip()
    key = before[:-1].rstrip() if before.endswith(":") else ""
    return key[key.rfind(key[-1], 0, -1) + 1 : -1] if key.endswith(("'", '"')) else ""


def _parse_malformed(text: str, index: int, end: int) -> Iterator[_Found]:
    """Yields complete coordinates of an object that is not valid JSON: truncated, extra comma, or Python's quotes."""
    body = text[index:end]
    found = _LIST.findall(body) if "_2d" in body else []
    if not found:
        return
    label = _LABEL.search(body)
    if label is None:
        name = _key_before(text, index)
    else:
        name = _unescaped(label[1]) if label[1] is not None else label[2].replace("\\'", "'")
    for lists_text in found:
        lists = re.findall(r"\[([^\[\]]*)\]", lists_text) or [lists_text]
        for numbers in (_numbers(part.replace('"', "").replace("'", "")) for part in lists):
            if numbers:
                yield name, numbers


def _unescaped(text: str) -> str:
    """Decodes a JSON string; returns it unchanged if it is truncated within an escape."""
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


_SYNTAX: dict[str, Callable[[str], Iterator[_Found]]] = {"marks": _parse_marked, "json": _parse_json}
_MARKS = BoxNotation(syntax="marks", unit="thousandth")
_JSON = BoxNotation(syntax="json", unit="thousandth")
_FAMILIES = {
    "qwen": _MARKS,
    "qwen2_vl": _MARKS,
    "qwen2_5_vl": BoxNotation(syntax="json", unit="pixel"),
    "qwen3_vl": _JSON,
    "qwen3_vl_moe": _JSON,
    "qwen3_5": _JSON,
    "qwen3_5_moe": _JSON,
}
"""The notations of bundles that do not have it in their manifest, before schema 10; later families are not added."""
