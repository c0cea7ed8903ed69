"""`python -m calib_data.generator OUT --kind receipt --count 10 --seed S`: write a set of pages with its labels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .dataset import Plan, write_set
from .fonts import FontMissing
from .kinds import kinds
from .prompts import TASKS


def parse(arguments: Sequence[str] | None = None) -> tuple[Plan, Path]:
    parser = argparse.ArgumentParser("python -m calib_data.generator", description="Write a set of pages with labels.")
    parser.add_argument("out", type=Path, help="directory to make; it must not exist")
    parser.add_argument("--kind", action="append", choices=sorted(kinds()), help="may be repeated; default: all kinds")
    parser.add_argument("--count", type=int, default=4, help="pages of each kind (default 4)")
    parser.add_argument("--seed", default="0", help="any text (default 0)")
    parser.add_argument("--questions", choices=("all", "one"), default="all", help="of every task, or of a random one")
    parser.add_argument("--task", action="append", choices=TASKS, help="may be repeated; default: all tasks")
    parser.add_argument("--degrade", type=float, default=0.0, metavar="SHARE", help="share of damaged pages, 0 to 1")
    given = parser.parse_args(arguments)
    chosen, tasks = tuple(given.kind or sorted(kinds())), tuple(given.task or TASKS)
    return Plan(chosen, given.count, given.seed, given.questions, tasks, given.degrade), given.out


def main(arguments: Sequence[str] | None = None) -> int:
    plan, out = parse(arguments)
    try:
        write_set(plan, out)
    except (FontMissing, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
