"""Boxes and points of every family's notation, in pixels of the original image, even in unfinished answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qvl_export import families
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import qwen
from qvl_runtime import grounding
from qvl_runtime.answers.stream import Stream
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import PromptError
from qvl_runtime.grounding import Box, Point, notation_of, parse
from qvl_runtime.manifest import BoxNotation, ImageTokens
from qvl_runtime.model import load
from qvl_runtime.resize import smart_resize
from tests.conftest import REFERENCE, Loader
from tests.oracles.families import find as find_family

HELDOUT = Path(__file__).parents[2] / "calib_data" / "heldout"
MANIFEST = read_manifest(Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6")
Checkpoints = Callable[[str, str], Path]
sides = st.integers(40, 3000)
shares = st.tuples(*[st.floats(0, 0.999)] * 4)


@pytest.fixture(scope="module", params=families.available())
def notated(checkpoint: Checkpoints, request: pytest.FixtureRequest) -> tuple[str, BoxNotation]:
    """A family and the notation that its bundles have."""
    return request.param, families.read_spec(Checkpoint(checkpoint(request.param, "small"))).boxes


@given(width=sides, height=sides, boxes=st.lists(shares, min_size=1, max_size=5), data=st.data())
def test_boxes_come_back_as_they_were_written(
    notated: tuple[str, BoxNotation], width: int, height: int, boxes: list[tuple[float, ...]], data: st.DataObject
) -> None:
    """Each coordinate, as a share of its side, is written as the family writes it and found within its rounding."""
    family, notation = notated
    resized, expects = smart_resize(height, width, 28, 3136, 1 << 20)[::-1], find_family(family)
    units = (1000, 1000) if expects.thousandths else resized
    written, expected = [], []
    for index, (a, b, c, d) in enumerate(boxes):
        x1, x2, y1, y2 = *sorted((a, b)), *sorted((c, d))
        numbers = [int(x1 * units[0]), int(y1 * units[1]), int(x2 * units[0]), int(y2 * units[1])]
        written.append(expects.notation.format(f"label {index}", *numbers))
        expected.append((f"label {index}", x1 * width, y1 * height, x2 * width, y2 * height))
    glue = data.draw(st.sampled_from(["", "\n", ", ", " and then "]))
    found = parse(glue.join(written), notation, (width, height), resized)
    assert [region.label for region in found] == [label for label, *_ in expected]
    for region, (_, *corners) in zip(found, expected, strict=True):
        assert isinstance(region, Box)
        off = np.abs(np.array([region.x1, region.y1, region.x2, region.y2]) - corners)
        assert (off <= np.array([width, height] * 2) / np.array(list(units) * 2) + 1e-6).all()


@pytest.mark.parametrize("family", sorted(grounding._FAMILIES))
def test_older_bundles_have_the_notation_of_their_family(checkpoint: Checkpoints, family: str) -> None:
    spec = families.read_spec(Checkpoint(checkpoint(family, "small")))
    older = msgspec.structs.replace(MANIFEST, family=family, boxes=None)
    assert notation_of(older) == spec.boxes
    other = BoxNotation(syntax="marks", unit="pixel")
    assert notation_of(msgspec.structs.replace(older, boxes=other)) == other
    answer = "<ref>a</ref><box>(5,10),(15,20)</box>"
    assert parse(answer, other, (1000, 1000), (500, 500)) == [A]


def test_a_bundle_says_how_boxes_and_images_are_written(model: Loader) -> None:
    manifest = model("qwen2_vl", "small", "fp32").manifest
    assert manifest.boxes == BoxNotation(syntax="marks", unit="thousandth")
    assert manifest.image_tokens == ImageTokens(start="<|vision_start|>", end="<|vision_end|>", layout="grid")
    manifest = model("qwen", "small", "fp32").manifest
    assert manifest.image_tokens == ImageTokens(start="<img>", end="</img>", layout="queries")


def test_qwen2_5_without_a_resized_size_takes_the_default_bounds() -> None:
    (box,) = parse('{"bbox_2d": [10, 20, 560, 840]}', "qwen2_5_vl", (570, 830))
    assert box == Box("", 10 * 570 / 560, 20 * 830 / 840, 570, 830)


A, B = Box("a", 10, 20, 30, 40), Box("b", 50, 60, 70, 80)
JSON = '[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [50, 60, 70, 80], "label": "b"}]'
ANSWERS: dict[str, tuple[str, list[Any]]] = {
    "list": (JSON, [A, B]),
    "fence": (f"```json\n{JSON}\n```", [A, B]),
    "prose": (f"Here {{they}} are: {JSON} as asked.", [A, B]),
    "lines": (JSON[1:-1].replace("}, ", "}\n"), [A, B]),
    "cut in a label": (JSON[:-3], [A, B]),
    "cut before a label": (JSON[: JSON.index('"label": "b"')], [A, Box("", 50, 60, 70, 80)]),
    "cut in numbers": (JSON[: JSON.index(", 80")], [A]),
    "cut in the first": (JSON[:20], []),
    "trailing comma": (JSON.replace('"a"}', '"a",}'), [A, B]),
    "trailing commas": (
        '[{"bbox_2d": [10, 20, 30, 40,], "label": "a",}, {"label": "b", "bbox_2d": [50, 60, 70, 80], },]',
        [A, B],
    ),
    "Python's quotes": (JSON.replace('"', "'"), [A, B]),
    "Python's quotes, cut off": (JSON.replace('"', "'")[:-3], [A, B]),
    "an apostrophe in Python's quotes": (
        "[{'label': 'John's a', 'bbox_2d': [10, 20, 30, 40]}]",
        [Box("John's a", 10, 20, 30, 40)],
    ),
    "an escaped apostrophe": (
        r"{'bbox_2d': (), 'bbox_2d': [10, 20, 30, 40], 'label': 'John\'s'}",
        [Box("John's", 10, 20, 30, 40)],
    ),
    "both quotes": ("{'bbox_2d': [10, 20, 30, 40], 'label': \"it's\"}", [Box("it's", 10, 20, 30, 40)]),
    "numbers as text": ('{"bbox_2d": ["10", "20.0", " 30 ", "40"], "label": "a"}', [A]),
    "numbers as text, Python's": ("{'bbox_2d': ['10', '20', '30', '40'], 'label': 'a'}", [A]),
    "a list as text": ('{"bbox_2d": "[10, 20, 30, 40]", "label": "a"}', [A]),
    "numbers in a text": (
        '{"bbox_2d": "10, 20,30, 40", "label": "a"},{"bbox_2d": "(50,60),(70,80)", "label": "b"}',
        [A, B],
    ),
    "a list as text in what is cut": ('{"bbox_2d": "10,20,30,40", "label": "a", "x"', [A]),
    "words as numbers": (
        '{"bbox_2d": ["10", "20", "x", "40"]}, {"bbox_2d": "left"}, {"bbox_2d": ["1e3", "2", "3", "4"]}',
        [],
    ),
    "several lists with trailing commas": (
        '{"bbox_2d": [[10, 20, 30, 40,], [50, 60, 70, 80],], "label": "a",}',
        [A, Box("a", 50, 60, 70, 80)],
    ),
    "under a key, with a trailing comma": (
        '{"a": {"bbox_2d": [10, 20, 30, 40],}, "b": [{"bbox_2d": [50, 60, 70, 80]}],}',
        [A, B],
    ),
    "under a key, cut off": ('{"a": {"bbox_2d": [10, 20, 30, 40]}, "b": {"bbox_2d": [50, 60, 70, 80]}', [A, B]),
    "escapes in what is cut off": (
        r'{"bbox_2d": [10, 20, 30, 40], "label": "\u53d1 \"q\""',
        [Box('发 "q"', 10, 20, 30, 40)],
    ),
    "a zero": ('{"bbox_2d": [0, 0, 30, 40], "label": "a"}', [Box("a", 0, 0, 30, 40)]),
    "deep lists": ('{"bbox_2d": ' + "[" * 500 + "1" + "]" * 500 + "}", []),
    "order": ('{"label": "a", "bbox_2d": [10, 20, 30, 40]}', [A]),
    "braces in a label": (
        '[{"bbox_2d": [10, 20, 30, 40], "label": "a {b} [c]"}]',
        [Box("a {b} [c]", 10, 20, 30, 40)],
    ),
    "nested": ('{"objects": {"a": {"bbox_2d": [10, 20, 30, 40]}, "b": {"bbox_2d": [50, 60, 70, 80]}}}', [A, B]),
    "several boxes": (
        '{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]], "label": "a"}',
        [A, Box("a", 50, 60, 70, 80)],
    ),
    "spotting": ('[{"bbox_2d": [10, 20, 30, 40], "text_content": "发票"}]', [Box("发票", 10, 20, 30, 40)]),
    "points": (
        '[{"point_2d": [10, 20], "label": "a"}, {"point_2d": [1.5, 2]}]',
        [Point("a", 10, 20), Point("", 1.5, 2)],
    ),
    "turned corners": ('{"bbox_2d": [30, 40, 10, 20], "label": "a"}', [A]),
    "outside": ('{"bbox_2d": [-5, 20, 30, 99999], "label": "a"}', [Box("a", 0, 20, 30, 1000)]),
    "three numbers": ('{"bbox_2d": [10, 20, 30], "label": "a"}', []),
    "no numbers": ('{"bbox_2d": ["x", true, null, 1], "label": "a"}, {"bbox_2d": [NaN, Infinity, 1e999, 1]}', []),
    "huge": ('{"bbox_2d": [' + "9" * 400 + ", 1, 2, 3]}", []),
    "nothing": ("There is no such thing.", []),
    "empty": ("", []),
    "deep": ('{"a":' * 3000, []),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_json_answers(answer: str, expected: list[Any]) -> None:
    assert parse(answer, "qwen3_vl", (1000, 1000)) == expected
    assert parse(answer, "qwen2_5_vl", (1000, 1000), (1000, 1000)) == expected


MARKED: dict[str, tuple[str, list[Any]]] = {
    "two boxes of one label": (
        "<ref>a</ref><box>(10,20),(30,40)</box><box>(50,60),(70,80)</box>",
        [A, Box("a", 50, 60, 70, 80)],
    ),
    "among prose": (
        "See <ref> a </ref> <box>(10, 20), (30, 40)</box> and <ref>b</ref><box>(50,60),(70,80)</box>.",
        [A, B],
    ),
    "marks left out by a decoder": ("a(10,20),(30,40)\nb(50,60),(70,80)", [A, B]),
    "without a label": ("<box>(10,20),(30,40)</box>", [Box("", 10, 20, 30, 40)]),
    "point": ("<ref>a</ref><box>(10,20)</box>", [Point("a", 10, 20)]),
    "quadrilateral": ("<ref>a</ref><quad>(12,20),(30,22),(28,40),(10,38)</quad>", [A]),
    "cut after a pair": ("<ref>a</ref><box>(10,20),(30,40)</box><ref>b</ref><box>(50,60),", [A]),
    "cut in a pair": ("<ref>a</ref><box>(10,20),(30,40)</box><ref>b</ref><box>(50,60),(70,8", [A]),
    "cut before the end mark": ("<ref>a</ref><box>(10,20),(30,40)", [A]),
    "coordinates in prose": ("f(1,2) is not a box", []),
}


@pytest.mark.parametrize(("answer", "expected"), MARKED.values(), ids=MARKED)
def test_marked_answers(answer: str, expected: list[Any]) -> None:
    assert parse(answer, "qwen", (1000, 1000)) == expected
    for name, mark in {"ref": "object_ref", "box": "box", "quad": "quad"}.items():
        answer = answer.replace(f"</{name}>", f"<|{mark}_end|>").replace(f"<{name}>", f"<|{mark}_start|>")
    assert parse(answer, "qwen2_vl", (1000, 1000)) == expected


SIZE = 60_000
HOSTILE = {
    "qwen": [
        "(1,2),",
        "(1,2)",
        " ",
        "<box> ",
        "<ref>",
        "<box>(1,2)",
        "(1,",
        "( ",
        "a\n(1,2)",
        "(1,2),(3,4) x",
        "x<ref>",
    ],
    "qwen3_vl": [
        *('{"a":', "{", '{"', '{"x":[', "{},", '{"bbox_2d":[', '"bbox_2d":[', '{"label":"x', "{'", '{"a":[1,2,{"b":'),
        *('{"bbox_2d":[1,2,3,4],"label":"a",},', '{"bbox_2d":["\\', "{'label':'a'b", '{"bbox_2d":[[1,', "1,"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "unit"), [(family, unit) for family in HOSTILE for unit in HOSTILE[family]])
@pytest.mark.parametrize("start", ["", "(1,2)", '{"bbox_2d":['])
def test_hostile_answers_take_no_long_time(family: str, unit: str, start: str) -> None:
    """Time grows with the length alone; it used to grow with its square: minutes here, hours for a megabyte."""
    answer = start + unit * (SIZE // len(unit))
    began = time.process_time()
    parse(answer, family, (1000, 1000))
    parse(answer + " ,(", family, (1000, 1000))
    assert time.process_time() - began < 10


def test_many_nested_boxes_take_no_long_time() -> None:
    boxes = ",".join(['{"bbox_2d": [1, 2, 3, 4]}'] * 8000)
    began = time.process_time()
    assert len(parse('{"a":' * 400 + f"[{boxes}]" + "}" * 400, "qwen3_vl", (1000, 1000))) == 8000
    assert time.process_time() - began < 5


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(PromptError, match=r"family 'llava' \(one of qwen, "):
        parse("", "llava", (10, 10))


def test_marks_are_part_of_an_answer(model: Loader) -> None:
    reader = model("qwen2_vl", "small", "fp32")
    answer = find_family("qwen2_vl").notation.format("the total", 10, 20, 30, 40)
    ids = reader.token_ids(answer + "<|im_end|>")
    marks = {id: mark for mark in grounding.MARKS if (id := reader.tokenizer.token_to_id(mark)) is not None}
    text = "".join(Stream(iter(ids), reader.tokenizer, Any, marks=marks))
    assert text == answer
    assert reader.regions(text, Image.new("RGB", (500, 200))) == [Box("the total", 5, 4, 15, 8)]


def test_regions_know_the_resize_rule(model: Loader) -> None:
    """Of an image alone, and of one that was scaled down further to fit its prompt."""
    reader = model("qwen2_5_vl", "small", "fp32")
    page = Image.new("RGB", (500, 300))
    height, width = smart_resize(300, 500, 28, reader.manifest.image.min_pixels, reader.manifest.image.max_pixels)
    answer = json.dumps({"bbox_2d": [0, 0, width // 2, height], "label": "left"})
    assert reader.regions(answer, page) == [Box("left", 0, 0, 250 * (width // 2 * 2 / width), 300)]
    messages = [{"role": "user", "content": [{"type": "image", "image": page}] * 2}]
    with pytest.warns(UserWarning, match="scaled down"):
        placed = reader.prompt(messages, reserve=8192 - 60).placed[1]
    small = placed.grid.w * 14, placed.grid.h * 14
    answer = json.dumps({"bbox_2d": [0, 0, small[0], small[1] / 2]})
    assert reader.regions(answer, placed) == [Box("", 0, 0, 500, 150)]


def iou(a: Box, b: Box) -> float:
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    common = max(width, 0) * max(height, 0)
    return common / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - common)


def test_the_reference_checkpoint_locates_fields(reference_bundle: Path) -> None:
    """Twelve held-out pages: the boxes of the answers parse, and are near the true ones."""
    reader = load(reference_bundle, threads=1)
    lines = (json.loads(line) for line in (HELDOUT / "labels.jsonl").open(encoding="utf-8"))
    questions = [line for line in lines if line["task"] == "grounding"][:12]
    overlaps = []
    for line in questions:
        page = Image.open(HELDOUT / line["image"])
        content = [{"type": "image", "image": page}, {"type": "text", "text": line["prompt"]}]
        (truth,) = reader.regions(line["answers"][0], page)
        found = reader.regions(reader.generate([{"role": "user", "content": content}], max_new_tokens=60), page)
        overlaps.append(iou(*found, truth))
    assert np.mean(overlaps) > 0.12, overlaps  # a small reader: its boxes are near, a random one overlaps by 0.02


def test_the_marks_are_those_of_the_tokenizers() -> None:
    added = json.loads((REFERENCE / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    assert set(grounding.MARKS) <= {*qwen.SPECIAL_TOKENS, *(token["content"] for token in added)}
