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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True)
class Item:
    """A page of a set: the name of its file without extension, what is asked of it, where it comes from."""

    stem: str
    page: Page
    questions: Sequence[Question]
    source: Mapping[str, object]


def plan_items(plan: Plan) -> Iterator[Item]:
    for kind in plan.kinds:
        for index in range(plan.count):
            page = make_page(plan, kind, index)
            source = {"generator": kind, "seed": plan.seed, "index": index}
            yield Item(f"{kind}_{index:04d}", page, make_questions(plan, kind, index, page), source)


def write_set(plan: Plan, out: Path) -> None:
    """Make the set beside `out` and rename it; raises FileExistsError when `out` is there already."""
    with new_directory(out) as folder:
        require_fonts(plan.kinds)
        labels = [line for item in plan_items(plan) for line in write_item(item, folder)[1]]
        write_labels(labels, folder)
        write_manifest(manifest(plan, folder), folder)


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory beside `out` that is renamed to it when the block ends, and removed when the block fails."""
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or name another directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield beside
        beside.chmod(0o755)
        os.rename(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def require_fonts(names: Sequence[str]) -> None:
    """Refuse before the first page when a font that these kinds use is not installed."""
    lacks = fonts.missing([key for kind in names for key in kinds()[kind].fonts])
    if lacks:
        packages = sorted({fonts.FONTS[key].package for key in lacks})
        keys = ", ".join(sorted(set(lacks)))
        raise fonts.FontMissing(f"fonts {keys} are not installed: apt-get install {' '.join(packages)}")


def write_item(item: Item, folder: Path) -> tuple[str, list[str]]:
    """The image's name and its label lines, after the image is written."""
    extension, data = encode(item.page.image)
    image = f"{item.stem}.{extension}"
    (folder / image).write_bytes(data)
    lines = [{"image": image, **asdict(question), "kind": item.page.kind} for question in item.questions]
    return image, [json.dumps(line, ensure_ascii=False) for line in lines]


def write_labels(lines: Sequence[str], folder: Path) -> None:
    (folder / "labels.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_manifest(content: Mapping[str, object], folder: Path) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (folder / "manifest.json").write_text(text + "\n", "utf-8")


def manifest(plan: Plan, folder: Path) -> dict[str, object]:
    """Arguments, Pillow (bytes are the same only with the same one), fonts the kinds may use, sha256 of every file."""
    used, arguments = fonts_used(plan.kinds), asdict(plan)
    return {
        "seed": plan.seed, "arguments": arguments, "pillow": PIL.__version__, "fonts": used, "sha256": digests(folder),
    }  # fmt: skip


def fonts_used(names: Sequence[str]) -> list[dict[str, str]]:
    keys = sorted({key for kind in names for key in kinds()[kind].fonts})
    return [{"name": key, "package": fonts.FONTS[key].package, "licence": fonts.FONTS[key].licence} for key in keys]


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a set by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
