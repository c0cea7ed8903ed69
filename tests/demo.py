"""`make demo`: the reference checkpoint to fp32 and fp16 bundles, and both reading held-out pages.

Everything happens in `demo_out/`; the bundles stay there to be tried with `qvl-export run`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qvl_export import ExportPlan, export
from qvl_runtime import load
from tests.heldout import Item, character_error_rate, items
from tests.oracles.tiny import REFERENCE

OUT = Path("demo_out")
PAGES = 40
SHOWN = 6


def main() -> None:
    console = Console(width=120, highlight=False)
    questions = list(items(pages=PAGES))
    answers: dict[str, list[str]] = {}
    summary = Table("bundle", "MB", "export s", "pages", "Read CER", "What exact", "Locate exact", "s a page", box=None)
    for precision in ("fp32", "fp16"):
        began = time.perf_counter()
        out = OUT / precision
        manifest = export(ExportPlan(REFERENCE, out, precision=precision, force=True))
        exported = time.perf_counter() - began
        console.print(f"{out}: reading {PAGES} held-out pages, {len(questions)} questions")
        model, began = load(out, threads=2), time.perf_counter()
        answers[precision] = [model.generate(item.messages, max_new_tokens=160) for item in questions]
        seconds = (time.perf_counter() - began) / PAGES
        size = sum(file.size for file in manifest.files.values()) / 1e6
        figures = scores(questions, answers[precision])
        summary.add_row(precision, f"{size:.1f}", f"{exported:.1f}", str(PAGES), *figures, f"{seconds:.3f}")
    console.print(examples(questions, answers))
    console.print(summary)
    same = sum(a == b for a, b in zip(*answers.values(), strict=True))
    console.print(f"fp32 and fp16 answer {same} of {len(questions)} questions alike")
    page = os.path.relpath(questions[0].image)
    console.print(f'try: .venv/bin/qvl-export run {OUT}/fp16 --image {page} "Read the text."')


def scores(questions: list[Item], answers: list[str]) -> list[str]:
    """CER of reading, and exact matches of the other two tasks."""
    pairs = {task: [] for task in ("ocr", "qa", "grounding")}  # type: dict[str, list[tuple[str, str]]]
    for item, answer in zip(questions, answers, strict=True):
        pairs[item.task].append((answer, item.answer))
    read, exact = pairs.pop("ocr"), []
    for chosen in pairs.values():
        exact.append(f"{sum(answer == truth for answer, truth in chosen)}/{len(chosen)}")
    return [f"{100 * character_error_rate(*map(list, zip(*read, strict=True))):.1f} %", *exact]


def examples(questions: list[Item], answers: dict[str, list[str]]) -> Table:
    table = Table("page and prompt", "truth", *answers, show_lines=True)
    for index, item in enumerate(questions[:SHOWN]):
        given = [answers[precision][index] for precision in answers]
        table.add_row(f"{item.image.name}\n{item.prompt}", item.answer, *given)
    return table


if __name__ == "__main__":
    main()
