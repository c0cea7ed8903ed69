"""`eval build`: an evaluation set from scans and a table."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.evaluate.sets.build_set import build_set
from qvl_export.evaluate.sets.dataset import open_set

HEAD = "image,prompt,task,answer,kind\n"


def scans(directory: Path) -> Path:
    (directory / "scans" / "may").mkdir(parents=True)
    for name in ("a.png", "may/b.png"):
        Image.new("RGB", (9, 9)).save(directory / "scans" / name)
    (directory / "scans" / "bad.png").write_bytes(b"no image")
    return directory / "scans"


def test_a_set_from_scans_and_a_table(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    rows = 'a.png,"Sum, please?",qa,12,bill\na.png,"Sum, please?",qa,12.00,bill\nmay/b.png,Read.,ocr,"one\ntwo",\n'
    truth.write_text("\ufeff" + HEAD + rows, "utf-8")
    out = tmp_path / "set"
    done = CliRunner().invoke(cli, ["eval", "build", str(scans(tmp_path)), str(truth), str(out), "--json"])
    assert json.loads(done.stdout) == {"items": 2, "images": 2, "tasks": {"qa": 1, "ocr": 1}}
    first, second = (item.label for item in open_set(out).items())
    assert (first.prompt, first.answers, first.kind) == ("Sum, please?", ["12", "12.00"], "bill")
    assert (second.image, second.answers, second.kind) == ("may/b.png", ["one\ntwo"], "document")


def test_a_missing_directory_of_scans_is_named_first(tmp_path: Path) -> None:
    for missing, said in ((tmp_path / "nope", "no such directory"), (scans(tmp_path) / "a.png", "is not a directory")):
        with pytest.raises(ExportError) as caught:
            build_set(missing, tmp_path / "truth.csv", tmp_path / "set")
        assert str(caught.value) == f"{missing}: {said}"
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


@pytest.mark.parametrize("head", ["", "sep=;\n"])
def test_a_table_as_spreadsheets_write_it(tmp_path: Path, head: str) -> None:
    """Semicolons, capitals, blanks in the first row, backslashes, and line numbers that are still right."""
    truth, out = tmp_path / "truth.csv", tmp_path / "set"
    rows = 'Image; PROMPT ;Task;"Answer"\r\nmay\\b.png;Sum, please?;qa;1,5\r\n'
    truth.write_text("\ufeff" + head + rows, "utf-8", newline="")
    build_set(scans(tmp_path), truth, out)
    [item] = open_set(out).items()
    assert (item.label.image, item.label.prompt, item.label.answers) == ("may/b.png", "Sum, please?", ["1,5"])
    truth.write_text("\ufeff" + head + rows + "a.png;x;qa\r\n", "utf-8", newline="")
    with pytest.raises(ExportError, match=rf"truth\.csv:{4 if head else 3}: has too few"):
        build_set(tmp_path / "scans", truth, tmp_path / "other")
    truth.write_text("image\tprompt\ttask\tanswer\na.png\tRead.\tocr\tx; y; z\n")
    assert build_set(tmp_path / "scans", truth, tmp_path / "tabs")["items"] == 1


@pytest.mark.parametrize("name", ["labels.jsonl", "./Labels.jsonl", "labels.jsonl/a.png"])
def test_an_image_cannot_replace_the_labels(tmp_path: Path, name: str) -> None:
    pages = scans(tmp_path)
    (pages / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(pages / "a.png", pages / name)
    (tmp_path / "truth.csv").write_text(f"{HEAD}{name},Read.,ocr,x,\n")
    with pytest.raises(ExportError, match=r"truth\.csv: image .* would replace labels\.jsonl"):
        build_set(pages, tmp_path / "truth.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,prompt,answer\n", "has no column task"),
        (HEAD, "has no rows"),
        (HEAD + "a.png,Read.,ocr,x,\na.png,Read.\n", "truth.csv:3: has too few"),
        (HEAD + "a.png,Read.,song,x,\n", "truth.csv:2: task 'song'"),
        (HEAD + "c.png,Read.,ocr,x,\n", "truth.csv:2: image c.png cannot be read"),
        (HEAD + "bad.png,Read.,ocr,x,\n", "truth.csv:2: image bad.png cannot be read"),
        (HEAD + "../a.png,Read.,ocr,x,\n", "is not inside the set"),
        (HEAD + "..\\a.png,Read.,ocr,x,\n", "is not inside the set"),
        (HEAD + "C:\\a.png,Read.,ocr,x,\n", "is not inside the set"),
    ],
)
def test_bad_tables_are_refused_and_leave_nothing(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(ExportError) as error:
        build_set(scans(tmp_path), tmp_path / "truth.csv", tmp_path / "out")
    assert said in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "truth.csv"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["labels.jsonl"],
            "image labels.jsonl would replace labels.jsonl (rename the file, and its entry in the table)",
        ),
        (["./Labels.JSONL"], "image ./Labels.JSONL would replace labels.jsonl"),
        (["a.png", "A.png"], "image A.png would replace a.png"),
        (["may/b.png", "MAY/B.png"], "image MAY/B.png would replace may/b.png"),
        (["u\u0308.png", "\u00fc.png"], "image \u00fc.png would replace u\u0308.png"),
        (["a.png", "./a.png"], "image ./a.png would replace a.png"),
        (["pipe.png"], "truth.csv:2: image pipe.png cannot be read: no such file"),
        (["may"], "truth.csv:2: image may cannot be read: no such file"),
    ],
)
def test_images_that_would_overwrite_something_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    """On any file system that the set may be carried to."""
    folder = scans(tmp_path)
    os.mkfifo(folder / "pipe.png")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            Image.new("RGB", (9, 9)).save(folder / name, "PNG")
    (tmp_path / "truth.csv").write_text(HEAD + "".join(f"{name},Read.,ocr,x,\n" for name in names), "utf-8")
    with pytest.raises(ExportError) as error:
        build_set(folder, tmp_path / "truth.csv", tmp_path / "out")
    assert said in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "truth.csv"}


def test_images_may_be_called_as_files_of_other_directories_are(tmp_path: Path) -> None:
    folder = scans(tmp_path)
    names = ["report.json", "bundle.json", "manifest.json", "may/labels.jsonl"]
    for name in names:
        Image.new("RGB", (9, 9)).save(folder / name, "PNG")
    (tmp_path / "truth.csv").write_text(HEAD + "".join(f"{name},Read.,ocr,x,\n" for name in names), "utf-8")
    assert build_set(folder, tmp_path / "truth.csv", tmp_path / "out")["images"] == 4
    assert [item.label.image for item in open_set(tmp_path / "out").items()] == names


def test_a_set_is_replaced_by_force(tmp_path: Path) -> None:
    """The refusal names an option that exists, and a set is not replaced by one that is built from its own files."""
    folder, truth, out = scans(tmp_path), tmp_path / "truth.csv", tmp_path / "set"
    words = ["eval", "build", str(folder), str(truth), str(out)]
    for row in ("a.png,Read.,ocr,x,\n", "may/b.png,Read.,ocr,y,\n"):
        truth.write_text(HEAD + row, "utf-8")
        assert CliRunner().invoke(cli, [*words, "--force"], catch_exceptions=False).exit_code == 0
    with pytest.raises(ExportError, match=r"set: already exists \(give --force"):
        build_set(folder, truth, out)
    with pytest.raises(ExportError, match=r"set: would replace its own sources"):
        build_set(out, truth, out, force=True)
    [item] = open_set(out).items()
    assert item.label.image == "may/b.png" and not (out / "a.png").exists()


@pytest.mark.parametrize("out", ["/proc/new", "/dev/null/new"])
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, out: str) -> None:
    (tmp_path / "truth.csv").write_text(HEAD + "a.png,Read.,ocr,x,\n", "utf-8")
    with pytest.raises(ExportError, match=rf"^{out}: cannot be written: "):
        build_set(scans(tmp_path), tmp_path / "truth.csv", Path(out))


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes((HEAD + "a.png,Read.,ocr,Müller,\n").encode("latin-1"))
    with pytest.raises(ExportError, match=r"truth\.csv: is not UTF-8: .*save it as CSV UTF-8"):
        build_set(scans(tmp_path), tmp_path / "truth.csv", tmp_path / "out")
