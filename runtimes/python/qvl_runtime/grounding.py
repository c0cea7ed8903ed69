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


_TOKEN = re.compile(
    r"(?P<R><ref>|<\|object_ref_start\|>)|(?P<r></ref>|<\|object_ref_end\|>)"
    r"|(?P<O><(?:box|quad)>|<\|(?:box|quad)_start\|>)|(?P<C></(?:box|quad)>|<\|(?:box|quad)_end\|>)"
    r"|(?P<P>\(\s*\d{1,6}\s*,\s*\d{1,6}\s*\))"
)
"""Marks and pairs of coordinates, each kind with its letter; between them is a comma (,), a pair cut off (x), or text
(t). Of blank there is no trace."""
_SENTENCE = re.compile(r"R[^rO]*r?|OPC|O?P(?:,?P)+x?C?")
"""A label, a point, or a box: where its last pair is cut off, it is none."""


def _marked(text: str) -> Iterator[_Found]:
    """Pairs of coordinates with the last label before them, or, without marks, the text since the last pair."""
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
    """The kinds of what the text consists of, and where each lies; the last place is the end of the text."""
    kinds, spans, at = "", [], 0
    found = [(match.lastgroup or "", match.span()) for match in _TOKEN.finditer(text)]
    for kind, span in [*found, ("", (len(text), len(text)))]:
        if between := _between(text[at : span[0]]):
            kinds += between
            spans.append((at, span[0]))
        kinds += kind
        spans.append(span)
        at = span[1]
    return kinds, spans


def _between(text: str) -> str:
    text = text.strip()
    if text.startswith(","):
        rest = text[1:].lstrip()
        return "x" if rest.startswith("(") else "t" if rest else ","
    return "t" if text else ""


MAX_FAILED = 500
"""Objects that do not parse, after which no more are tried as a whole: each costs a look at all that is before it."""


def _json(text: str) -> Iterator[_Found]:
    """Every object with coordinates, wherever it stands: in a list, in a code fence, among prose, cut off."""
    decoder, at, failed, wasted = json.JSONDecoder(), text.find("{"), 0, 0
    while at >= 0:
        end = at + 1
        try:
            if failed >= MAX_FAILED or wasted > 4 * len(text):
                raise ValueError
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            failed, wasted = failed + 1, wasted + getattr(error, "pos", len(text)) - at
            following = text.find("{", end)
            yield from _remains(text, at, len(text) if following < 0 else following)
        else:
            yield from _walk(value, _key_before(text, at))
        at = text.find("{", end)


def _walk(value: Any, name: str) -> Iterator[_Found]:
    """Objects inside lists and objects, in order; one without a label of its own goes by the key it stands under."""
    stack: list[tuple[Any, str, bool]] = [(value, name, False)]
    while stack:
        value, name, places = stack.pop()
        if places:
            yield from ((name, numbers) for numbers in _coordinates(value))
        elif isinstance(value, list):
            stack += [(item, name, False) for item in reversed(value)]
        elif isinstance(value, dict):
            label = next((value[key] for key in LABELS if isinstance(value.get(key), str)), name)
            inner = [(item, label if key in KEYS else key, key in KEYS) for key, item in value.items()]
            stack += reversed(inner)


def _coordinates(value: Any) -> Iterator[list[float]]:
    """[x, y, …] or a list of such lists; each, and each number, may be written as text."""
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        for item in value:
            if numbers := _numbers(item):
                yield numbers
    elif numbers := _numbers(value):
        yield numbers


def _numbers(value: Any) -> list[float]:
    """The numbers of a list, or of a text that holds nothing else; none where anything in it is not a number."""
    if isinstance(value, str):
        value = re.split(r"\s*,\s*", value.translate(_NO_BRACKETS).strip().rstrip(",").rstrip())
    found = [_number(item) for item in value] if isinstance(value, list) else []
    return [number for number in found if number is not None] if None not in found else []


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = float(value) if _WRITTEN.fullmatch(value.strip()) else None
    whole = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if whole else None


_NO_BRACKETS = dict.fromkeys(map(ord, "[]()"))
_WRITTEN = re.compile(r"[-+]?\d{1,9}(?:\.\d{0,20})?")
_QUOTED = r"""(?:"((?:[^"\\]|\\.)*)|'((?:[^'\\]|\\.|'(?!\s*(?:[,:}\]]|$)))*))"""
"""A text in quotes of either kind, perhaps cut off; an apostrophe within single ones is none of them."""
_LIST = re.compile(r"""["'](?:bbox|point)_2d["']\s*:\s*(\[(?:[^\[\]{}]|\[[^\[\]{}]*\])*\]|["'][^"'{}]*["'])""")
_LABEL = re.compile(rf"""["'](?:{"|".join(LABELS)})["']\s*:\s*{_QUOTED}""")
LONGEST_KEY = 200


def _key_before(text: str, at: int) -> str:
    """The key that the object at a place stands under, alone or first in a list; else nothing."""
    before = text[max(0, at - LONGEST_KEY) : at].rstrip().removesuffix("[").rstrip()
    key = before[:-1].rstrip() if before.endswith(":") else ""
    return key[key.rfind(key[-1], 0, -1) + 1 : -1] if key.endswith(("'", '"')) else ""


def _remains(text: str, at: int, end: int) -> Iterator[_Found]:
    """An object that is not JSON: cut off, with a comma too many, or in Python's quotes. Whole coordinates are kept."""
    body = text[at:end]
    found = _LIST.findall(body) if "_2d" in body else []
    if not found:
        return
    label = _LABEL.search(body)
    if label is None:
        name = _key_before(text, at)
    else:
        name = _unescaped(label[1]) if label[1] is not None else label[2].replace("\\'", "'")
    for places in found:
        lists = re.findall(r"\[([^\[\]]*)\]", places) or [places]
        for numbers in (_numbers(part.replace('"', "").replace("'", "")) for part in lists):
            if numbers:
                yield name, numbers


def _unescaped(text: str) -> str:
    """What a JSON string means, or as it is where it is cut off within an escape."""
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


_FAMILIES: dict[str, tuple[Callable[[str], Iterator[_Found]], bool]] = {
    "qwen": (_marked, True),
    "qwen2_vl": (_marked, True),
    "qwen2_5_vl": (_json, False),
    "qwen3_vl": (_json, True),
    "qwen3_vl_moe": (_json, True),
}
"""How to find coordinates, and whether they are thousandths of each side."""
