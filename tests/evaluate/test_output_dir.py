"""`compare` and `sweep` write into new and empty directories and their own, and refuse all others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qvl_export.cli.commands import cli
from qvl_export.errors import OutputError
from qvl_export.evaluate.report.output_dir import check_output, locked_output
from qvl_export.evaluate.report.render import write
from tests.evaluate.small_reports import report

KEY = "0123456789ab"


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def compare(out: Path) -> Result:
    return CliRunner().invoke(cli, ["compare", "none", "none", "--data", "none", "--out", str(out)])


def sweep(out: Path) -> Result:
    options = ["--pixels", "12544,50176", "--precisions", "fp16", "--data", "none", "--out", str(out)]
    return CliRunner().invoke(cli, ["sweep", "none", *options])


@pytest.mark.parametrize("command", [compare, sweep])
@pytest.mark.parametrize("name", ["notes.txt", "index.html", "report.json", "work/notes.txt", "bundles/notes.txt"])
def test_a_directory_of_other_things_is_refused_and_left_alone(
    tmp_path: Path, name: str, command: Callable[[Path], Result]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    before = files(tmp_path)
    done = command(tmp_path)
    assert isinstance(done.exception, OutputError)
    assert str(done.exception) == f"{tmp_path}: exists and is not a report (choose another directory)"
    assert files(tmp_path) == before


def test_a_work_directory_beside_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work" / KEY).mkdir(parents=True)
    (tmp_path / "index.html").touch()
    with pytest.raises(OutputError, match="is not a report"):
        check_output(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="is not a report"):
        check_output(tmp_path / "out")


@pytest.mark.parametrize("left", [f"work/{KEY}", "work", "bundles/int4-200704", "bundles/.int4-200704.1f.partial", "."])
def test_the_files_of_an_interrupted_run_are_accepted(tmp_path: Path, left: str) -> None:
    (tmp_path / left).mkdir(parents=True, exist_ok=True)
    (tmp_path / f".{'0' * 32}.tmp").touch()
    check_output(tmp_path)


def test_useless_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    area = tmp_path / "out" / "work" / KEY
    left = area.parent / f".qvl-export.{KEY}.scratch"
    for folder in (area / "scratch", left):
        folder.mkdir(parents=True)
    for half in (tmp_path / "out", area, area / "scratch"):
        (half / f".{'0' * 32}.tmp").touch()
    for kept in (area / "a.0.jsonl", area / "scratch" / "0.npz", left / "a.npy"):
        kept.touch()
    with locked_output(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.npz", "a.0.jsonl"]


def test_a_run_without_results_leaves_nothing(tmp_path: Path) -> None:
    for place in (tmp_path / "new" / "out", tmp_path / "given"):
        with locked_output(place):
            (place / "work" / KEY).mkdir(parents=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "given").mkdir()
    with locked_output(tmp_path / "given"):
        (tmp_path / "given" / "work").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["given"]


def test_the_current_directory_is_locked_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with locked_output(Path(".")):
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".here.report.lock"]
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize("place", ["/proc/new", "/dev/null/new"])
def test_a_directory_that_cannot_be_written_is_named(place: str) -> None:
    with pytest.raises(OutputError, match=rf"^{place}: cannot be written: "), locked_output(Path(place)):
        pass


def test_a_report_is_replaced_with_its_work_or_without(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_output(out)
    write(report(tmp_path, 4, 1), out)
    check_output(out)
    (out / "work" / KEY).mkdir(parents=True)
    check_output(out)
    shutil.rmtree(out / "work")
    (out / "kept.txt").touch()
    check_output(out)
