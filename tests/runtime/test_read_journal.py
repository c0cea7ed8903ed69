"""The file of answers: continued after a kill at any byte, refused if it is something else."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import IO, Any

import pytest

from qvl_runtime.errors import PromptError
from qvl_runtime.read import journal as journal_module
from qvl_runtime.read.journal import Journal
from qvl_runtime.read.tasks import Task

RUN = "f" * 16


def record(name: str, sha256: str = "aa", page: int = 1, **more: Any) -> dict[str, Any]:
    return {"file": name, "page": page, "sha256": sha256, "answer": f"of {name}", **more}


def task(name: str, sha256: str | None = "aa", page: int = 1) -> Task:
    return Task(name, name, "image", page, sha256)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "new" / "a.jsonl", RUN) as journal:
        for name, sha256 in (("1.png", "aa"), ("é.png", "bb"), ("3.png", "cc")):
            journal.add(record(name, sha256))
    return tmp_path / "new" / "a.jsonl"


def test_a_cut_last_line_is_dropped_wherever_it_was_cut(path: Path) -> None:
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Journal(path, RUN) as journal:
            journal.begin()
            complete = sum(end <= length for end in ends)
            assert [journal.known(task("x", sha)) for sha in ("aa", "bb", "cc")] == [n < complete for n in range(3)]
            journal.add(record("4.png", "dd"))
        assert [each["sha256"] for each in lines(path)] == [*["aa", "bb", "cc"][:complete], "dd"]


def test_failures_are_tried_again(path: Path) -> None:
    with Journal(path, RUN) as journal:
        journal.add({"file": "4.png", "page": None, "sha256": None, "error": "no"})
        journal.add(record("5.png", "ee", error="no"))
    with Journal(path, RUN) as journal:
        journal.begin()
        assert not journal.known(task("5.png", "ee")) and not journal.known(task("4.png", None))
    assert [each["file"] for each in lines(path)] == ["1.png", "é.png", "3.png"]


def test_each_record_stands_for_one_file_of_its_content(path: Path) -> None:
    with Journal(path, RUN) as journal:
        journal.begin()
        assert journal.known(task("renamed.png")) and not journal.known(task("another.png"))
        assert journal.twin(task("another.png"))["answer"] == "of 1.png"  # type: ignore[index]
        assert journal.twin(task("another.png", page=2)) is None


def test_answers_of_another_run_are_refused_and_kept(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(PromptError, match=r"other options or another bundle.*--force"):
        Journal(path, "0" * 16)
    assert path.read_bytes() == before
    with Journal(path, "0" * 16, force=True) as journal:
        assert path.read_bytes() == before, "what fails before the run begins, such as loading a model, loses nothing"
        journal.begin()
        journal.add(record("new.png"))
    assert [each["file"] for each in lines(path)] == ["new.png"]


@pytest.mark.parametrize("content", [b"hello\n", b"hello", b'{"a": 1}\n', b"[1]\n", b'{"file": "x"}\n', b"\xff\xfe\n"])
@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_refused_and_kept(tmp_path: Path, content: bytes, force: bool) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(PromptError, match=r"a\.jsonl:1: is not an answer that `read` wrote"):
        Journal(path, RUN, force)
    assert path.read_bytes() == content


def test_damage_in_the_middle_is_named(path: Path) -> None:
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(content[0] + b"oops\n" + content[2])
    with pytest.raises(PromptError, match=r"a\.jsonl:2"):
        Journal(path, RUN)


def test_two_processes_do_not_write_one_file(path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(path, RUN), pytest.raises(PromptError, match="another `read` is writing it"):
        Journal(path, RUN)


def test_nothing_written_leaves_no_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl", RUN):
        pass
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a.jsonl"):
        with pytest.raises(OSError, match="cannot be written") as failed:
            Journal(path, RUN)
        assert str(tmp_path) in str(failed.value.filename)


def test_a_file_is_closed_first_where_open_ones_cannot_be_replaced_or_removed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    opened, replace, unlink = list[IO[bytes]](), Path.replace, Path.unlink
    original = Journal._open
    monkeypatch.setattr(journal_module, "CLOSE_FIRST", True)
    monkeypatch.setattr(Journal, "_open", lambda self: opened.append(original(self)) or opened[-1])

    def refuse(self: Path) -> None:
        if any(not file.closed and file.name == str(self) for file in opened):
            raise PermissionError(13, "is open", str(self))

    monkeypatch.setattr(Path, "replace", lambda self, to: (refuse(Path(to)), replace(self, to)))
    monkeypatch.setattr(Path, "unlink", lambda self, **kind: (refuse(self), unlink(self, **kind)))
    path.write_bytes(path.read_bytes()[:-1])
    with Journal(path, RUN) as journal:
        journal.begin()
        journal.add(record("4.png", "dd"))
    assert [each["sha256"] for each in lines(path)] == ["aa", "bb", "dd"]
    with Journal(tmp_path / "none.jsonl", RUN):
        pass
    assert not (tmp_path / "none.jsonl").exists() and all(file.closed for file in opened)


def test_a_file_that_was_replaced_before_it_was_locked_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    lock, locked = journal_module._lock, list[str]()

    def replaced_before(file: IO[bytes], name: Path) -> None:
        if not locked:
            (path.parent / "new").write_bytes(path.read_bytes())
            (path.parent / "new").replace(path)
        locked.append(str(name))
        lock(file, name)

    monkeypatch.setattr(journal_module, "_lock", replaced_before)
    with Journal(path, RUN) as journal:
        journal.add(record("4.png", "dd"))
    assert [each["sha256"] for each in lines(path)] == ["aa", "bb", "cc", "dd"] and len(locked) == 2


def test_an_answered_page_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    count = 20_000
    with Journal(tmp_path / "a.jsonl", RUN) as journal:
        tracemalloc.start()
        try:
            for number in range(count):
                journal.add(record("1.png", f"{number:064}"))
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert 50 < used / count < 200
