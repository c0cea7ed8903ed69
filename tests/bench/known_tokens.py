"""Known tokens in one call against one token at a time: answers of a schema, OCR and boxes, and what a call costs.

    python -m tests.bench.known_tokens [--pages 100] [--threads 1] [--bundles DIR] [--part all]

`answers`: both reference checkpoints in every precision, about held-out pages. Each page is asked without, with
the tokens that the schema determines, and with guesses as well, in turns; times are those of decoding, ratios of
one run. A schema asks for the fields that a page has, as texts of at most 24 characters: the checkpoints were not
trained to answer so, and small differences in their logits change a token more often than in a trained answer.
`calls`: how much longer a call of several tokens takes than one of one token, in the shape of Qwen2-VL-2B with 8 layers
and random weights. Exported bundles are kept in DIR if it is given.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np

from qvl_export import export
from qvl_runtime.answers.generate import Decoder, GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import Model, load
from qvl_runtime.prompts.prompt import Prompt
from qvl_runtime.sessions.cpu import CpuLlm
from tests.heldout import Item, items
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

from .random_bundle import export_random
from .random_checkpoint import make
from .run_speed import cpu

PRECISIONS = ("fp16", "int8", "int4", "hybrid")
CHECKPOINTS = (REFERENCE, REFERENCE.parent / "reference_qwen3")
ANSWER = 120
SIDES = ("alone", "certain", "guesses")
PAST, SIZES, ROUNDS = 600, (1, 2, 3, 4, 5, 9, 17), 15
"""Tokens in the cache, tokens of a call, and the rounds whose medians are taken."""


def schema(truth: str) -> dict[str, Any] | None:
    """Of the fields that a page names, in its order; None if there are fewer than two."""
    keys = list(dict.fromkeys(name.lower() for name in re.findall(r"^([A-Z][A-Za-z ]+): ", truth, re.MULTILINE)))
    fields = {key: {"type": "string", "maxLength": 24} for key in keys}
    whole = {"type": "object", "properties": fields, "required": keys, "additionalProperties": False}
    return whole if len(keys) > 1 else None


def questions(task: str, pages: int) -> Iterator[tuple[Item, dict[str, Any] | None]]:
    """The first `pages` questions of a task; those of `schema` are about the pages of `ocr` that have fields."""
    found = 0
    for item in items("ocr" if task == "schema" else task):
        fields = schema(item.answer) if task == "schema" else None
        if found < pages and (fields or task != "schema"):
            found += 1
            yield item, fields


def answer(model: Model, item: Item, fields: dict[str, Any] | None, side: str) -> GenerationStats:
    lookup = {"alone": False, "certain": None, "guesses": True}[side]
    with mock.patch.object(Model, "_runs_together", True):
        stream = model.stream(item.messages, ANSWER, json_schema=fields, lookup=lookup)
        list(stream)
    return stream.run


def answers(model: Model, task: str, pages: int) -> dict[str, Any]:
    """Answers that are the same to the token, tokens by kind, and how many times faster than one by one."""
    same, kinds, times = Counter[str](), Counter[str](), {side: list[float]() for side in SIDES}
    sides = [side for side in SIDES if task == "schema" or side != "certain"]
    for index, (item, fields) in enumerate(questions(task, pages)):
        model.generate(item.messages, 1)  # the page and the prompt are in the caches
        turn = [sides[(index + shift) % len(sides)] for shift in range(len(sides))]
        runs = {side: answer(model, item, fields, side) for side in turn}
        for side, run in runs.items():
            same[side] += run.tokens == runs["alone"].tokens
            times[side].append(run.times.decode)
        counts = runs["guesses"].counts
        kinds.update({name: getattr(counts, name) for name in ("generated", "certain", "proposed", "accepted")})
    return {
        "questions": len(times["alone"]),
        "tokens": dict(kinds),
        "same": {side: same[side] for side in sides[1:]},
        "times_faster": {side: faster(times["alone"], times[side]) for side in sides[1:]},
    }


def faster(before: list[float], after: list[float]) -> dict[str, float]:
    """Of all answers together, and the median of an answer."""
    ratios = [old / new for old, new in zip(before, after, strict=True) if new]
    return {"sum": round(sum(before) / sum(after), 2), "median": round(statistics.median(ratios), 2)}


def calls(bundle: Path, threads: int) -> dict[str, Any]:
    """Times a call of n tokens takes as long as one of one: with the last logits alone, and with all."""
    manifest = read_manifest(bundle)
    decoder = Decoder(cast(Any, CpuLlm(bundle, manifest, threads)), manifest.llm, cast(Any, None))
    ids = np.random.default_rng(0).integers(1000, 150000, PAST)
    decoder.prefill(Prompt(ids, np.tile(np.arange(PAST), (3, 1)), ()), np.array([PAST - 1]), GenerationStats())
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for size in SIZES:
            for kind, more in (("certain", 0), ("guesses", size - 1)):
                began = time.perf_counter()
                decoder.extend(ids[:size].tolist(), PAST, PAST, more)
                times.setdefault((kind, size), []).append(time.perf_counter() - began)
    medians = {key: statistics.median(values[1:]) for key, values in times.items()}
    return {
        kind: {size: round(medians[kind, size] / medians[kind, 1], 2) for size in SIZES[1:]}
        for kind in ("certain", "guesses")
    } | {"milliseconds_of_one": round(medians["certain", 1] * 1e3, 1)}


def reader(checkpoint: Path, precision: str, here: Path) -> Path:
    out = here / f"{checkpoint.name}-{precision}"
    if not out.exists():
        export(export_plan(checkpoint, out, precision=precision, **({} if precision == "fp16" else {"samples": 24})))
    return out


def full_size(precision: str, here: Path) -> Path:
    out = here / f"2b-{precision}"
    if not out.exists():
        source = make("qwen2-vl-2b", here / "2b-checkpoint", layers=8, blocks=1)
        export_random(export_plan(source, out, precision=precision))
    return out


def measure(here: Path, options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"cpu": cpu(), "threads": options.threads}
    for checkpoint in CHECKPOINTS if options.part in ("answers", "all") else ():
        for precision in PRECISIONS:
            with load(reader(checkpoint, precision, here), threads=options.threads) as model:
                for task in ("schema", "ocr", "grounding"):
                    found = answers(model, task, options.pages)
                    print(json.dumps({f"{checkpoint.name} {precision} {task}": found}), flush=True)
                    result[f"{checkpoint.name} {precision} {task}"] = found
    for precision in PRECISIONS[:3] if options.part in ("calls", "all") else ():
        result[f"2b {precision}"] = calls(full_size(precision, here), options.threads)
    return result


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bundles", type=Path)
    parser.add_argument("--part", choices=["answers", "calls", "all"], default="all")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        return measure(options.bundles or Path(temporary), options)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
