"""`make demo`: the reference checkpoint to bundles of every precision, and the accuracy report over 200 held-out pages.

Everything happens in `demo_out/`; the bundles stay there to be tried with `qvl-export run`.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from qvl_export import export
from qvl_export.cli.progress import ItemProgress
from qvl_export.evaluate.analysis.results import Report
from qvl_export.evaluate.compare import ComparePlan, compare
from qvl_export.evaluate.report.render import markdown, write
from qvl_export.evaluate.sets.dataset import open_set
from tests.heldout import HELDOUT, items
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

OUT = Path("demo_out")
CALIBRATION = Path(__file__).parents[1] / "calib_data" / "calibration"
PLANS = {
    "fp32": {"precision": "fp32"},
    "fp16": {},
    "int8": {"precision": "int8", "calib": CALIBRATION, "samples": 16},
    "int4": {"precision": "int4", "calib": CALIBRATION, "samples": 16},
}
"""Options of every bundle; the first is the reference of the report."""
PAGES = 200
LONGEST = 160


def main() -> None:
    console, began = Console(width=120, highlight=False), time.perf_counter()
    bundles = []
    for name, options in PLANS.items():
        bundles.append(OUT / name)
        started = time.perf_counter()
        export(export_plan(REFERENCE, bundles[-1], force=True, **options))
        console.print(f"{bundles[-1]}: exported in {time.perf_counter() - started:.1f} s")
    shutil.rmtree(OUT / "report", ignore_errors=True)
    report = measure(bundles, pages(OUT / "pages"))
    console.print(examples(report))
    console.print(Markdown(markdown(report)))
    page = os.path.relpath(next(items()).image)
    console.print(f"{OUT}/report/index.html: the whole report, after {time.perf_counter() - began:.0f} s")
    console.print("qvl-export is .venv/bin/qvl-export; `. .venv/bin/activate` puts it on the PATH")
    console.print(f'try: .venv/bin/qvl-export run {OUT}/int4 --image {page} "Read the text."')


def pages(out: Path) -> Path:
    """The first held-out pages as a set of their own."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    names = {item.image.name for item in items(pages=PAGES)}
    with (out / "labels.jsonl").open("w", encoding="utf-8") as file:
        for line in (HELDOUT / "labels.jsonl").read_text("utf-8").splitlines(keepends=True):
            if line.split('"')[3] in names:
                file.write(line)
    for name in names:
        shutil.copyfile(HELDOUT / name, out / name)
    open_set(out)
    return out


def measure(bundles: list[Path], data: Path) -> Report:
    """The report of all bundles against the first, written to `demo_out/report`."""
    progress = ItemProgress(quiet=False)
    plan = ComparePlan(bundles[0], tuple(bundles[1:]), data, OUT / "report", max_new_tokens=LONGEST)
    try:
        report = compare(plan, progress)
    finally:
        progress.stop()
    write(report, plan.out)
    return report


def examples(report: Report) -> Table:
    """Items that the last bundle answered unlike the reference."""
    bundle = report.bundles[-1]
    table = Table("page and prompt", "truth", report.reference.title, bundle.title, show_lines=True)
    for item in bundle.worst[:3]:
        table.add_row(f"{Path(item.image).name}\n{item.prompt}", item.truth, item.reference_answer, item.answer)
    return table


if __name__ == "__main__":
    main()
