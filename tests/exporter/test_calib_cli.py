"""`export --calib` and `calib build` as commands: their output, and one line with exit code 2 for each bad input."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_export.cli import main as cli
from qvl_runtime.bundle import read_manifest
from tests.exporter.test_broken_inputs import listing
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.pdfs import encrypt, text_pdf
from tests.quant.pages import scan

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]
EXPORT = "export", str(REFERENCE), "bundle", "--llm-precision", "int4", "--max-pixels", "40000"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in an empty directory: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qvl-export", *arguments])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        return code, *capsys.readouterr()

    return command


def test_build_prints_its_counts(run: Run, tmp_path: Path) -> None:
    text_pdf(tmp_path / "bill.pdf", [["Total: 12"], []])
    scan(tmp_path / "scans" / "a.png")
    code, out, err = run("calib", "build", "bill.pdf", "scans", "set")
    assert (code, out) == (0, "set: 2 pages, 1 of 2 questions with an answer\n")
    assert err == "reading 3 pages of bill.pdf, scans\nbill.pdf: page 2: is blank, left out\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bill.pdf", "scans", "set"]
    _, out, err = run("calib", "build", "scans", "one")
    assert (out, err) == ("one: 1 page, 0 of 1 question with an answer\n", "reading 1 page of scans\n")


def test_build_as_json_and_quiet(run: Run, tmp_path: Path) -> None:
    scan(tmp_path / "a.png")
    assert run("calib", "build", "a.png", "set", "--quiet") == (0, "", "")
    code, out, err = run("calib", "build", "a.png", "a.png", "set", "--force", "--quiet", "--json", "--samples", "9")
    found = json.loads(out)
    assert (code, err, len(found.pop("sha256"))) == (0, "", 64)
    assert found == {
        "out": "set", "pages": 1, "questions": 1, "answered": 0, "duplicates": ["a.png"], "left_out": []
    }  # fmt: skip


def test_help_names_every_option(run: Run) -> None:
    code, out, _ = run("calib", "build", "--help")
    options = ("SOURCES", "OUT_SET", "--samples", "--dpi", "--force", "--quiet", "--json")
    assert code == 0 and all(option in out for option in options)
    assert "build" in run("calib", "--help")[1] and "--calib" in run("export", "--help")[1]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Sources, each broken in another way."""
    (tmp_path / "empty").mkdir()
    scan(tmp_path / "scans" / "good.png")
    (tmp_path / "scans" / "bad.png").write_bytes(b"no pixels")
    text_pdf(tmp_path / "good.pdf", [["Total: 12"]])
    (tmp_path / "secret.pdf").write_bytes(encrypt((tmp_path / "good.pdf").read_bytes()))
    text_pdf(tmp_path / "blank.pdf", [[], []])
    scan(tmp_path / "set" / "p.png")
    good = {"image": "p.png", "prompt": "Read.", "answers": ["x"]}
    (tmp_path / "set" / "labels.jsonl").write_text(f'{json.dumps(good)}\n{{"image": 3}}\n')
    return tmp_path


BROKEN = [
    ("nowhere", r"nowhere: no such file or directory"),
    ("empty", r"empty: has no pages \(give images, PDFs, or a directory of them\)"),
    ("scans", r"scans/bad\.png: is not an image in a known format"),
    ("secret.pdf", r"secret\.pdf: cannot be read as a PDF: .*password"),
    ("blank.pdf", r"blank\.pdf: every page is blank"),
    ("set", r"set/labels\.jsonl:2: is malformed: .*image"),
]


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize(("source", "message"), BROKEN)
@pytest.mark.parametrize("command", ["build", "export"])
def test_sources_that_cannot_be_used(run: Run, tmp_path: Path, command: str, source: str, message: str) -> None:
    before = listing(tmp_path)
    arguments = ("calib", "build", source, "out") if command == "build" else (*EXPORT, "--calib", source)
    code, out, err = run(*arguments, "--quiet")
    assert code == 2 and not out and re.fullmatch(rf"error: {message}.*\n", err), err
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("calib", "build", "good.pdf"), r"SOURCES"),
        (("calib", "build"), r"SOURCES|OUT_SET"),
        (("calib", "build", "good.pdf", ""), r"'OUT_SET': the path is empty"),
        (("calib", "build", "", "out"), r"'SOURCES...': the path is empty"),
        (("export", str(REFERENCE), ""), r"'OUT': the path is empty"),
        (("export", "", "b", "--quiet"), r"the checkpoint's name is empty"),
        (("calib", "build", "good.pdf", "out", "--dpi", "5"), r"--dpi"),
        (("calib", "build", "good.pdf", "out", "--samples", "0"), r"--samples"),
        (("calib", "build", "good.pdf", "empty/../scans", "--force"), r"scans: exists and is not a calibration set"),
        (("calib", "build", "good.pdf", "good.pdf"), r"good\.pdf: exists and is not a calibration set"),
        (("calib", "build", "good.pdf", "good.pdf/set"), r"good\.pdf/set: cannot be written"),
        (("calib", "list"), r"'list'"),
        (("export", str(REFERENCE), "b", "--quiet", "--calib", "good.pdf"), r"--calib is for quantization"),
    ],
)
def test_arguments_that_make_no_sense(run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    before = listing(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2 and err.count("\n") == 1 and re.search(rf"^error: .*{message}", err), err
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("sources")
def test_export_on_several_sources(run: Run, tmp_path: Path) -> None:
    """A set, a picture and a PDF; the manifest and `inspect` say which, and how many pages."""
    given = ("--calib", str(HELDOUT), "--calib", "set/p.png", "--calib", "good.pdf", "--samples", "4", "--quiet")
    assert run(*EXPORT, *given) == (0, "", "")
    found = read_manifest(tmp_path / "bundle").provenance.calibration
    assert found is not None and (found.sources, found.pages) == (["heldout", "p.png", "good.pdf"], 4)
    _, out, _ = run("inspect", "bundle")
    assert f"  calib     4 pages of heldout, p.png, good.pdf (sha256 {found.sha256[:12]})\n" in out


def test_export_on_the_built_in_pages(run: Run, tmp_path: Path) -> None:
    """Of answers longer than half of the maximum length, that half is used."""
    code, out, err = run(*EXPORT, "--samples", "3", "--max-length", "600")
    assert code == 0 and "calibrating llm on 3 pages of built-in" in err
    assert re.search(r"calib     3 pages of built-in \(sha256 [0-9a-f]{12}\)", out)
