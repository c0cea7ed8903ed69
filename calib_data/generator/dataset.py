"""A set of pages as a directory: images, `labels.jsonl`, `manifest.json`; the same plan gives the same bytes.

Everything random about page `i` of a kind comes from the string `seed/kind/i`, so that a larger count or another
choice of questions leaves the pages as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import PIL

from . import fonts
from .degrade import degrade
from .encode import encode
from .kinds import kinds
from .page import Page
from .prompts import TASKS, Question, ask


@dataclass(frozen=True)
class Plan:
    """What to make: `count` pages of each kind, of which a share of `degraded` is damaged."""

    kinds: tuple[str, ...]
    count: int
    seed: str
    questions: str = "all"
    """`all`: one question of each of `tasks`; `one`: a random one of them."""
    tasks: tuple[str, ...] = TASKS
    degraded: float = 0.0


def make_page(plan: Plan, kind: str, index: int) -> Page:
    name = f"{plan.seed}/{kind}/{index}"
    page = kinds()[kind].make(Random(name))
    damage = Random(f"{name}/degrade")
    return degrade(page, damage) if damage.random() < plan.degraded else page


def make_questions(plan: Plan, kind: str, index: int, page: Page) -> list[Question]:
    rng = Random(f"{plan.seed}/{kind}/{index}/questions")
    questions = ask(page, rng, plan.tasks)
    return [rng.choice(questions)] if plan.questions == "one" and questions else questions


def write_set(plan: Plan, out: Path) -> None:
    """Make the set beside `out` and rename it; raises FileExistsError when `out` is there already."""
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or name another directory")
    _require_fonts(plan)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_files(plan, beside)
        beside.chmod(0o755)
        os.rename(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _require_fonts(plan: Plan) -> None:
    """Refuse before the first page when a font is not installed."""
    lacks = fonts.missing([key for kind in plan.kinds for key in kinds()[kind].fonts])
    if lacks:
        packages = sorted({fonts.FONTS[key].package for key in lacks})
        names = ", ".join(sorted(set(lacks)))
        raise fonts.FontMissing(f"fonts {names} are not installed: apt-get install {' '.join(packages)}")


def _write_files(plan: Plan, folder: Path) -> None:
    labels = [line for kind in plan.kinds for i in range(plan.count) for line in _write_page(plan, kind, i, folder)]
    (folder / "labels.jsonl").write_text("".join(f"{line}\n" for line in labels), "utf-8")
    text = json.dumps(manifest(plan, folder), ensure_ascii=False, indent=1)
    (folder / "manifest.json").write_text(text + "\n", "utf-8")


def _write_page(plan: Plan, kind: str, index: int, folder: Path) -> Iterator[str]:
    """The page's label lines, after its image is written."""
    page = make_page(plan, kind, index)
    extension, data = encode(page.image)
    image = f"{kind}_{index:04d}.{extension}"
    (folder / image).write_bytes(data)
    for question in make_questions(plan, kind, index, page):
        yield json.dumps({"image": image, **asdict(question), "kind": kind}, ensure_ascii=False)


def manifest(plan: Plan, folder: Path) -> dict[str, object]:
    """Arguments, Pillow (bytes are the same only with the same one), fonts the kinds may use, sha256 of every file."""
    keys = sorted({key for kind in plan.kinds for key in kinds()[kind].fonts})
    used = [{"name": key, "package": fonts.FONTS[key].package, "licence": fonts.FONTS[key].licence} for key in keys]
    files = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    arguments, pillow = asdict(plan), PIL.__version__
    return {"seed": plan.seed, "arguments": arguments, "pillow": pillow, "fonts": used, "sha256": digests}
