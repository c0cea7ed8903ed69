"""Pages to calibrate on: from sets, images and PDFs, spread evenly, each with its known text."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_export.common.labels import read_labels
from qvl_export.errors import ExportError
from qvl_export.quant.calibration_data import selection as module
from qvl_export.quant.calibration_data.selection import Record, built_in, evenly, select, share
from qvl_runtime.errors import QvlError
from tests.heldout import HELDOUT
from tests.pdfs import text_pdf
from tests.quant.pages import questions, scan

ROOT = Path(__file__).parents[2]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 120))
def test_shares_are_as_even_as_can_be(counts: list[int], limit: int) -> None:
    taken = share(counts, limit)
    assert sum(taken) == min(limit, sum(counts))
    assert all(0 <= part <= count for part, count in zip(taken, counts, strict=True))
    short = [part for part, count in zip(taken, counts, strict=True) if part < count]
    assert not short or (max(short) - min(short) <= 1 and max(taken) - min(short) <= 1)


@given(st.integers(1, 300), st.integers(1, 300))
def test_indices_are_spread(count: int, wanted: int) -> None:
    chosen = evenly(count, wanted)
    assert len(chosen) == len(set(chosen)) == min(count, wanted) and set(chosen) <= set(range(count))
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or ((chosen[0], chosen[-1]) == (0, count - 1) and max(gaps) - min(gaps) <= 1)


def test_samples_are_spread_over_a_set() -> None:
    names = [question.origin.file.name for question in questions(HELDOUT, limit=5)]
    assert len(set(names)) == 5 and names[0] == "simple_0000.png" and names[-1] > "simple_0390"


def test_samples_are_spread_over_sources(tmp_path: Path) -> None:
    for number in range(3):
        scan(tmp_path / "scans" / f"{number}.png", number)
    pdf = text_pdf(tmp_path / "long.pdf", [[f"page {number}"] for number in range(20)])
    found = questions(tmp_path / "scans", pdf, HELDOUT, limit=11)
    assert [question.origin.name.split("/")[0] for question in found] == ["scans"] * 3 + ["long.pdf"] * 4 + [
        "heldout"
    ] * 4


def test_progress_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_SECONDS", -1)
    reported: list[str] = []
    list(select(text_pdf(tmp_path / "a.pdf", [["one"], ["two"]])).questions(reported.append))
    assert [line.split(",")[0] for line in reported] == ["page 1 of 2 read", "page 2 of 2 read"]


def labeled(line: str) -> Callable[[Path], Path]:
    def make(here: Path) -> Path:
        (here / "set").mkdir()
        good = {"image": "p.png", "prompt": "", "answers": []}
        (here / "set" / "labels.jsonl").write_bytes(f"{json.dumps(good)}\n{line}\n".encode("utf-8", "surrogateescape"))
        scan(here / "set" / "p.png")
        return here / "set"

    return make


def pictures(*names: str) -> Callable[[Path], Path]:
    def make(here: Path) -> Path:
        (here / "scans").mkdir()
        for name in names:
            (here / "scans" / name).write_bytes(b"")
        return here / "scans"

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda here: here / "nowhere", r"nowhere: no such file or directory"),
        (pictures(), r"scans: has no pages \(give images, PDFs"),
        (pictures("notes.txt"), r"scans: has no pages"),
        (pictures("a.png"), r"scans/a\.png: is not an image"),
        (pictures("a.pdf"), r"scans/a\.pdf: cannot be read as a PDF"),
        (lambda here: text_pdf(here / "a.pdf", []), r"a\.pdf: (has no pages|cannot be read as a PDF)"),
        (lambda here: text_pdf(here / "a.pdf", [[], []]), r"^a\.pdf: every page is blank"),
        (lambda here: Path(__file__), r"test_selection\.py: is not an image"),
        (labeled("{"), r"set/labels\.jsonl:2: is malformed"),
        (labeled(""), r"set/labels\.jsonl:2: is malformed"),
        (labeled("\udcff\udcfe"), r"set/labels\.jsonl:2: is malformed"),
        (labeled("[" * 100_000), r"set/labels\.jsonl:2: is malformed"),
        (labeled('{"image": "p.png", "prompt": ""}'), r"set/labels\.jsonl:2: is malformed: .*answers"),
        (labeled('{"image": "/p.png", "prompt": "", "answers": []}'), r"labels\.jsonl:2: image .* is not inside"),
        (labeled('{"image": "", "prompt": "", "answers": []}'), r"labels\.jsonl:2: image .* is not inside"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(QvlError, match=message):
        questions(make(tmp_path))


def test_a_set_without_lines_is_empty(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text("")
    with pytest.raises(ExportError, match=r"labels\.jsonl: is empty"):
        list(read_labels(tmp_path))


def test_used_pages_are_recorded(tmp_path: Path) -> None:
    """The same content has the same hash in any directory; another page, prompt or answer changes it."""

    def recorded(folder: str, prompt: str = "Read.", answer: str = "x", ink: int = 0) -> str:
        scan(tmp_path / folder / "p.png", ink)
        lines = [{"image": "p.png", "prompt": asked, "answers": [answer]} for asked in (prompt, "What is it?")]
        (tmp_path / folder / "labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        record = Record([folder])
        for question in questions(tmp_path / folder):
            record.add(question)
        assert (record.calibration().pages, record.calibration().sources) == (1, [folder])
        return record.calibration().sha256

    assert recorded("a") == recorded("b")
    changed = [recorded("c", prompt="See."), recorded("d", answer="y"), recorded("e", ink=9), recorded("a")]
    assert len(set(changed)) == 4


def test_the_built_in_set_is_the_projects_own() -> None:
    """In a checkout it is where it is generated; the wheel installs it where an installation looks for it."""
    assert built_in() == ROOT / "calib_data" / "calibration"
    assert len(select()) == 96 and select().names == ["built-in"] and len(select(limit=10)) == 10
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    installed = module._INSTALLED.relative_to(ROOT / "exporter").as_posix()
    assert taken == {built_in().relative_to(ROOT).as_posix(): installed}


def test_held_out_pages_are_not_in_the_built_in_set() -> None:
    heldout = set(json.loads((HELDOUT / "manifest.json").read_text("utf-8"))["sha256"].values())
    assert heldout and not heldout & {question.origin.sha256 for question in questions(built_in())}


def test_an_installation_without_its_pages_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_INSTALLED", "_CHECKOUT"):
        monkeypatch.setattr(module, name, tmp_path / "calibration")
    with pytest.raises(ExportError, match=r"calibration: the built-in calibration pages are missing \(reinstall"):
        select()
