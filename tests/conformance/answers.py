"""Vectors of answers: tokens chosen from logits, log probabilities, stop strings, loops, boxes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qvl_runtime.answers.logprobs import TokenLogprob, recording
from qvl_runtime.answers.loops import LONGEST, REPEATS, LoopDetector
from qvl_runtime.answers.loops import TOKENS as LEAST
from qvl_runtime.answers.penalties import Penalties
from qvl_runtime.answers.presence import PresencePenalty
from qvl_runtime.answers.sampling import Logits, Sampling
from qvl_runtime.answers.stop_strings import StopStrings
from qvl_runtime.grounding import Box, parse
from qvl_runtime.manifest import BoxNotation

from .document import Case, Document

FORMULA = "float32 of ((i · 2654435761) mod 2^32) / 2^32 · 12 − 6, for token i of `vocab`"


def randoms() -> Document:
    return Document(
        "The random numbers of a seed: NumPy's `default_rng(seed).random()`, which is PCG64 seeded by SeedSequence.",
        {"seed": "a whole number, at least 0"},
        {"random": "the first numbers, from 0 to below 1: float64 with 53 random bits"},
        (
            Case(str(seed), {"seed": seed}, {"random": np.random.default_rng(seed).random(6).tolist()})
            for seed in (0, 1, 7, 42, 2**32 - 1, 2**32, 123456789012)
        ),
    )


def sampling() -> Document:
    return Document(
        "Tokens chosen one after another from the same logits, by penalties and a seed.",
        {
            "logits": "[vocab], or `vocab`: their number",
            "vocab": FORMULA,
            "prompt": "token ids of the prompt, for penalties",
            "options": "`temperature` (0: greedy), `top_k` (0: all), `top_p`, `min_p`, `seed`, `repetition_penalty`, "
            "`no_repeat_ngram_size`, `presence_penalty`; those that are not there leave logits as they are",
        },
        {
            "tokens": "chosen one after another, each seen by the penalties of the next",
            "allowed": "ids that the first token may be",
        },
        _sampling(),
    )


LOGITS = [1.5, -0.25, 3.0, 3.0, 0.0, -2.5, 2.75, 1.5, -1.0, 0.5]


def _sampling() -> Iterator[Case]:
    yield _chosen("greedy: the first of equals", {"logits": LOGITS}, {}, count=3)
    for seed in (0, 1, 2024):
        yield _chosen(f"temperature, seed {seed}", {"logits": LOGITS}, {"temperature": 1.0, "seed": seed})
    yield _chosen("top_k", {"logits": LOGITS}, {"temperature": 0.7, "top_k": 3, "seed": 5})
    yield _chosen("top_k of equals", {"logits": LOGITS}, {"temperature": 2.0, "top_k": 1, "seed": 5})
    yield _chosen("top_p", {"logits": LOGITS}, {"temperature": 1.3, "top_p": 0.8, "seed": 11})
    yield _chosen("min_p", {"logits": LOGITS}, {"temperature": 1.0, "min_p": 0.2, "seed": 11})
    together = {"temperature": 0.9, "top_k": 6, "top_p": 0.9, "min_p": 0.05, "seed": 3}
    yield _chosen("top_k, top_p and min_p", {"logits": LOGITS}, together)
    yield _chosen("many tokens", {"vocab": 5000}, {"temperature": 1.0, "seed": 9})
    yield _chosen("many tokens, top_p", {"vocab": 5000}, {"temperature": 0.6, "top_k": 50, "top_p": 0.7, "seed": 9})
    yield _chosen("tiny temperature", {"logits": LOGITS}, {"temperature": 1e-3, "top_k": 1, "seed": 0}, count=3)
    yield _chosen("repetition penalty", {"logits": LOGITS, "prompt": [2, 5, 5]}, {"repetition_penalty": 1.3}, count=8)
    yield _chosen("presence penalty", {"logits": LOGITS, "prompt": [2]}, {"presence_penalty": 1.5}, count=8)
    grams = {"logits": LOGITS, "prompt": [2, 3, 2]}
    yield _chosen("no n-gram twice", grams, {"no_repeat_ngram_size": 2}, count=8)
    penalized = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "temperature": 0.8, "seed": 4}
    yield _chosen("penalties and a seed", {"logits": LOGITS, "prompt": [6, 0]}, penalized)


def logits_of(given: Mapping[str, Any]) -> Logits:
    """The logits of a case."""
    if "logits" in given:
        return np.array(given["logits"], np.float32)
    mixed = np.arange(given["vocab"], dtype=np.int64) * 2654435761 % 2**32
    return (mixed / 2**32 * 12 - 6).astype(np.float32)


def _chosen(name: str, given: Mapping[str, Any], options: Mapping[str, Any], count: int = 12) -> Case:
    logits = logits_of(given)
    names = [field.name for field in dataclasses.fields(Sampling)]
    sampled = Sampling(**{key: value for key, value in options.items() if key in names})
    penalties = Penalties(options.get("repetition_penalty", 1.0), options.get("no_repeat_ngram_size", 0))
    pick = PresencePenalty(options.get("presence_penalty", 0.0)).picker(sampled.picker())
    pick = penalties.picker(pick, np.array(given.get("prompt", []), np.int64))
    allowed: dict[str, Any] = {}
    if {"top_k", "top_p", "min_p"} & options.keys():
        allowed = {"allowed": np.flatnonzero(sampled.probabilities(logits))}
    return Case(name, {**given, "options": options}, {"tokens": [pick(logits) for _ in range(count)], **allowed})


def logprobs() -> Document:
    return Document(
        "Log probabilities of a chosen token and of the likeliest ones: log softmax of the logits in float64, "
        "written with 12 decimals.",
        {
            "logits": "[vocab], or `vocab`: their number",
            "vocab": FORMULA,
            "token": "that was chosen",
            "count": "how many of the likeliest tokens are wanted",
        },
        {"logprob": "of the token", "top": "[token, log probability]: the likeliest first, of equals the lowest id"},
        _logprobs(),
    )


def _logprobs() -> Iterator[Case]:
    yield _recorded("the token alone", {"logits": LOGITS, "token": 2, "count": 0})
    yield _recorded("equals", {"logits": LOGITS, "token": 5, "count": 5})
    yield _recorded("more than there are", {"logits": LOGITS, "token": 3, "count": 20})
    yield _recorded("many tokens", {"vocab": 5000, "token": 77, "count": 20})
    yield _recorded("large logits", {"logits": [3e38, 2e38, -3e38], "token": 0, "count": 2})


def _recorded(name: str, given: Mapping[str, Any]) -> Case:
    found: list[TokenLogprob] = []
    recording(lambda _: int(given["token"]), given["count"], found, ())(logits_of(given))
    top = [(token, round(value, 12)) for token, value in found[0].top]
    return Case(name, given, {"logprob": round(found[0].logprob, 12), "top": top})


def loops() -> Document:
    return Document(
        f"Answers that end in a loop: at most {LONGEST} tokens that occur at least {REPEATS} times in a row, and are "
        f"at least {LEAST} tokens together.",
        {"before": "tokens of the answer", "part": "tokens that then repeat without end"},
        {"length": "of the answer when the loop is found, null if it never is", "loop": "tokens of the part"},
        _loops(),
    )


def _loops() -> Iterator[Case]:
    for period in (1, 2, 31, 32, 33, 100, LONGEST, LONGEST + 1):
        yield _looped(f"{period} tokens", [5000, 5001], list(range(period)))
    yield _looped("a part that is two", [], [1, 2, 1, 2])
    yield _looped("a part with parts that repeat", [], [1] * 40 + [2])
    yield _looped("a beginning that belongs to it", [8, 9], [7, 8, 9])


def _looped(name: str, before: list[int], part: list[int]) -> Case:
    detector, answer = LoopDetector(), before + part * (LEAST + 8)
    found = next(((at, loop) for at, token in enumerate(answer, 1) if (loop := detector.add(token))), (None, 0))
    return Case(name, {"before": before, "part": part}, {"length": found[0], "loop": found[1]})


def stop_strings() -> Document:
    return Document(
        "Stop strings: the pieces of an answer, up to the first that is complete; what may become one is held back.",
        {"strings": "that end an answer", "pieces": "as they are generated"},
        {"given": "the text returned for each piece", "rest": "that is returned at the end", "found": "or null"},
        _stop_strings(),
    )


def _stop_strings() -> Iterator[Case]:
    for strings, pieces in (
        (["\n\n"], ["a", "b\n", "\nc", "d"]),
        (["END", "EN"], ["xE", "N", "D"]),
        (["abc"], ["ab", "ab", "ab"]),
        (["abab"], ["aba", "c", "abab"]),
        (["z", "yz"], ["xyz"]),
        ([], ["a", "b"]),
    ):
        stop = StopStrings(strings)
        given = []
        for piece in pieces:
            given.append(stop.feed(piece))
            if stop.found is not None:
                break
        out = {"given": given, "rest": stop.rest(), "found": stop.found}
        yield Case(f"{strings} in {pieces}", {"strings": strings, "pieces": pieces}, out)


JSON = '[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [50, 60, 70, 80], "label": "b"}]'
ANSWERS: Mapping[str, str] = {
    "list": JSON,
    "fence": f"```json\n{JSON}\n```",
    "prose": f"Here {{they}} are: {JSON} as asked.",
    "lines": JSON[1:-1].replace("}, ", "}\n"),
    "cut in a label": JSON[:-3],
    "cut before a label": JSON[: JSON.index('"label": "b"')],
    "cut in numbers": JSON[: JSON.index(", 80")],
    "cut in the first": JSON[:20],
    "trailing commas": '[{"bbox_2d": [10, 20, 30, 40,], "label": "a",}, {"label": "b", "bbox_2d": [1, 2, 3, 4], },]',
    "Python's quotes": JSON.replace('"', "'"),
    "Python's quotes, cut off": JSON.replace('"', "'")[:-3],
    "an apostrophe in Python's quotes": "[{'label': 'John's a', 'bbox_2d': [10, 20, 30, 40]}]",
    "an escaped apostrophe": r"{'bbox_2d': (), 'bbox_2d': [10, 20, 30, 40], 'label': 'John\'s'}",
    "numbers as text": '{"bbox_2d": ["10", "20.0", " 30 ", "40"], "label": "a"}',
    "a list as text": '{"bbox_2d": "[10, 20, 30, 40]", "label": "a"}',
    "numbers in a text": '{"bbox_2d": "10, 20,30, 40", "label": "a"},{"bbox_2d": "(50,60),(70,80)", "label": "b"}',
    "words as numbers": '{"bbox_2d": ["10", "20", "x", "40"]}, {"bbox_2d": ["1e3", "2", "3", "4"]}',
    "several lists with trailing commas": '{"bbox_2d": [[10, 20, 30, 40,], [50, 60, 70, 80],], "label": "a",}',
    "under a key, with a trailing comma": '{"a": {"bbox_2d": [1, 2, 3, 4],}, "b": [{"bbox_2d": [5, 6, 7, 8]}],}',
    "under a key, cut off": '{"a": {"bbox_2d": [10, 20, 30, 40]}, "b": {"bbox_2d": [50, 60, 70, 80]}',
    "escapes in what is cut off": r'{"bbox_2d": [10, 20, 30, 40], "label": "\u53d1 \"q\""',
    "label first": '{"label": "a", "bbox_2d": [10, 20, 30, 40]}',
    "braces in a label": '[{"bbox_2d": [10, 20, 30, 40], "label": "a {b} [c]"}]',
    "nested": '{"objects": {"a": {"bbox_2d": [10, 20, 30, 40]}, "b": {"bbox_2d": [50, 60, 70, 80]}}}',
    "several boxes": '{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]], "label": "a"}',
    "text_content": '[{"bbox_2d": [10, 20, 30, 40], "text_content": "发票"}]',
    "points": '[{"point_2d": [10, 20], "label": "a"}, {"point_2d": [1.5, 2]}]',
    "turned corners": '{"bbox_2d": [30, 40, 10, 20], "label": "a"}',
    "outside": '{"bbox_2d": [-5, 20, 30, 99999], "label": "a"}',
    "three numbers": '{"bbox_2d": [10, 20, 30], "label": "a"}',
    "no numbers": '{"bbox_2d": ["x", true, null, 1], "label": "a"}, {"bbox_2d": [NaN, Infinity, 1e999, 1]}',
    "control characters": '{"bbox_2d": [10, 20, 30, 40], "label": "a\nb"}',
    "nothing": "There is no such thing.",
}
MARKED: Mapping[str, str] = {
    "two boxes of one label": "<ref>a</ref><box>(10,20),(30,40)</box><box>(50,60),(70,80)</box>",
    "among prose": "See <ref> a </ref> <box>(10, 20), (30, 40)</box> and <ref>b</ref><box>(50,60),(70,80)</box>.",
    "special tokens": "<|object_ref_start|>a<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
    "marks left out by a decoder": "a(10,20),(30,40)\nb(50,60),(70,80)",
    "without a label": "<box>(10,20),(30,40)</box>",
    "point": "<ref>a</ref><box>(10,20)</box>",
    "quadrilateral": "<ref>a</ref><quad>(12,20),(30,22),(28,40),(10,38)</quad>",
    "cut after a pair": "<ref>a</ref><box>(10,20),(30,40)</box><ref>b</ref><box>(50,60),",
    "cut in a pair": "<ref>a</ref><box>(10,20),(30,40)</box><ref>b</ref><box>(50,60),(70,8",
    "cut before the end mark": "<ref>a</ref><box>(10,20),(30,40)",
    "coordinates in prose": "f(1,2) is not a box",
}


def boxes() -> Document:
    return Document(
        "Boxes and points of answers, in pixels of the image; malformed and truncated ones are skipped.",
        {
            "answer": "",
            "notation": "`boxes` of the manifest",
            "image_size": "[width, height]",
            "resized_size": "[width, height] that the model saw, for notations in its pixels",
        },
        {"regions": "in order: label and [x1, y1, x2, y2] of a box, or [x, y] of a point"},
        _boxes(),
    )


def _boxes() -> Iterator[Case]:
    thousandths, pixel = BoxNotation(syntax="json", unit="thousandth"), BoxNotation(syntax="json", unit="pixel")
    for name, answer in ANSWERS.items():
        yield _parsed(name, answer, thousandths, (1000, 1000))
    yield _parsed("thousandths of another size", JSON, thousandths, (1240, 1754))
    yield _parsed("pixels of the resized image", JSON, pixel, (1240, 1754), (84, 112))
    for name, answer in MARKED.items():
        yield _parsed(f"marks: {name}", answer, BoxNotation(syntax="marks", unit="thousandth"), (500, 200))


def _parsed(
    name: str, answer: str, notation: BoxNotation, size: tuple[int, int], resized: tuple[int, int] | None = None
) -> Case:
    given: dict[str, Any] = {"answer": answer, "notation": {"syntax": notation.syntax, "unit": notation.unit}}
    given |= {"image_size": size} | ({"resized_size": resized} if resized else {})
    found = [{"label": region.label, "numbers": _numbers(region)} for region in parse(answer, notation, size, resized)]
    return Case(name, given, {"regions": found})


def _numbers(region: Any) -> Sequence[float]:
    numbers = (region.x1, region.y1, region.x2, region.y2) if isinstance(region, Box) else (region.x, region.y)
    assert all(math.isfinite(number) for number in numbers)
    return numbers
