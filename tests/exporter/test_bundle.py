"""A bundle on disk: whole or not there, replaced in one step, complete, the same twice, and described by its schema."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest
import torch

import qvl_runtime
from qvl_export import ExportPlan, OutputError, export
from qvl_export.bundle import files as bundles
from qvl_export.cli import main as cli
from qvl_export.common import atomic_output as atomic
from qvl_runtime.bundle import read_manifest, verify
from qvl_runtime.manifest import json_schema
from tests.exporter import damage as d
from tests.exporter.test_broken_inputs import listing

FIRST = "qwen2_5_vl", "small"
BLOCKED = """
import sys, time
from qvl_export.cli import main as cli
from qvl_export.graph import weights
write = weights.write
def block(*arguments, **options):
    write(*arguments, **options)
    print("half", flush=True)
    time.sleep(600)
weights.write = block
sys.argv = ["qvl-export", "export", *sys.argv[1:], "--quiet"]
cli.main()
"""
LIMITED = """
import resource, sys
from qvl_export.cli import main as cli
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv = ["qvl-export", "export", *sys.argv[1:], "--quiet"]
cli.main()
"""


@pytest.fixture
def source(checkpoint: Callable[[str, str], Path]) -> Path:
    return checkpoint(*FIRST)


@pytest.fixture
def copy(bundle: Callable[[str, str, str], Path], tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(bundle(*FIRST, "fp16"), tmp_path / "out"))


GONE = "0123456789ab"
"""In the name of what a process left behind that is gone."""


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_a_killed_export_leaves_no_bundle_and_the_next_clears_up(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", BLOCKED, str(source), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        process.kill()
    assert not out.exists() and [Path(name).suffix for name in names(tmp_path)] == [".lock", ".partial"]
    export(ExportPlan(source, out))
    assert names(tmp_path) == ["out"]
    assert all(good for _, good in verify(out, read_manifest(out)))


def test_an_export_that_still_runs_is_left_alone(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, str(source), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        before = names(tmp_path)
        export(ExportPlan(source, tmp_path / "out"))
        assert any(name.endswith(".partial") for name in before) and names(tmp_path) == sorted([*before, "out"])
        process.kill()


def test_what_a_file_system_without_locks_cannot_tell_is_left_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    other = tmp_path / f".out.{GONE}.partial"
    other.mkdir()
    export(ExportPlan(source, tmp_path / "out"))
    assert names(tmp_path) == [other.name, "out"]


def test_a_bundle_caught_between_renames_comes_back(source: Path, copy: Path) -> None:
    before = listing(copy)
    copy.rename(copy.parent / f".out.{GONE}.replaced")
    with pytest.raises(OutputError, match="already exists"):
        export(ExportPlan(source, copy))
    assert listing(copy) == before and names(copy.parent) == ["out"]


def test_force_replaces_the_whole_bundle(source: Path, copy: Path) -> None:
    (copy / "old notes").write_text("gone")
    shutil.copytree(copy, copy.parent / f".out.{GONE}.replaced")
    export(ExportPlan(source, copy, precision="fp32", force=True))
    assert read_manifest(copy).graphs["llm"].precision == "fp32"
    assert names(copy.parent) == ["out"] and "old notes" not in names(copy)


def test_force_through_a_link_replaces_what_it_points_to(source: Path, copy: Path) -> None:
    link = copy.parent / "link"
    link.symlink_to(copy)
    export(ExportPlan(source, link, precision="fp32", force=True))
    assert link.is_symlink() and read_manifest(copy).graphs["llm"].precision == "fp32"
    assert names(copy.parent) == ["link", "out"]


def test_a_failed_export_keeps_the_old_bundle(source: Path, copy: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(source, tmp_path / "checkpoint"))
    d.spoil(float("inf"), torch.float32)(broken)
    before = listing(tmp_path)
    with pytest.raises(Exception, match="not finite"):
        export(ExportPlan(broken, copy, force=True))
    assert listing(tmp_path) == before


def test_a_full_disk_is_one_line_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "new" / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "new/out: cannot be written: File too large" in done.stderr
    assert names(tmp_path) == []


def test_no_space_left_names_the_directory(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundles, "save_graph", full)
    with pytest.raises(OutputError, match="out: cannot be written: No space left on device"):
        export(ExportPlan(source, tmp_path / "out"))
    assert names(tmp_path) == []


def test_names_with_wildcards_are_names(source: Path, tmp_path: Path) -> None:
    mine, other = tmp_path / f".[ab].{GONE}.partial", tmp_path / f".a.{GONE}.partial"
    mine.mkdir()
    other.mkdir()
    export(ExportPlan(source, tmp_path / "[ab]"))
    assert names(tmp_path) == [other.name, "[ab]"]


@pytest.mark.parametrize("state", ["partial", "replaced"])
@pytest.mark.parametrize("other", ["out.v2", f"out.{GONE}.partial", "out.v2.0"])
def test_leftovers_of_a_name_with_the_same_beginning_stay(
    source: Path, copy: Path, tmp_path: Path, other: str, state: str
) -> None:
    """An export to `out.v2` was killed between its renames: its old bundle is neither `out` nor to be cleared away."""
    left = copy.rename(copy.parent / f".{other}.{GONE}.{state}")
    before = listing(left)
    export(ExportPlan(source, tmp_path / "out"))
    assert listing(left) == before and names(tmp_path) == sorted([left.name, "out"])
    export(ExportPlan(source, tmp_path / "out", force=True))
    assert listing(left) == before


def test_names_that_only_look_like_ours_are_left_alone(source: Path, tmp_path: Path) -> None:
    others = [f".out.{GONE}.partial.bak", ".out.0123.partial", f".out.{GONE.upper()}.partial", f".out.{GONE}.notes"]
    for name in others:
        (tmp_path / name).mkdir()
    export(ExportPlan(source, tmp_path / "out"))
    assert names(tmp_path) == sorted([*others, "out"])


def test_an_interruption_between_the_renames_leaves_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = listing(copy), atomic._rename

    def interrupted(source: Path, target: Path) -> None:
        if target == copy and source.suffix == ".partial":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(atomic, "_rename", interrupted)
    with pytest.raises(KeyboardInterrupt), bundles.writing(copy, force=True) as directory:
        (directory / "bundle.json").write_text("new")
    assert listing(copy) == before and names(copy.parent) == ["out"]


def test_a_directory_called_replaced_is_complete(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it takes the old bundle apart leaves no part of it that could come back."""
    taken: list[str] = []
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda path, **_: taken.append(Path(path).suffix))
    with bundles.writing(copy, force=True) as directory:
        (directory / "bundle.json").write_text("new")
    assert set(taken) == {".partial"}


@pytest.mark.parametrize("name", ["llm.onnx.data", "vision.onnx", "tokenizer.json"])
def test_verify_finds_a_flipped_bit(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["qvl-export", "inspect", str(copy), "--verify"])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok ", "DAMAGED"))]
    assert exit.value.code == 1 and len(lines) == len(read_manifest(copy).files)
    assert [line.split()[1] for line in lines if line.startswith("DAMAGED")] == [name]


def test_a_bundle_records_the_options_of_its_export(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = export(ExportPlan(source, tmp_path / "plain"))
    other = export(ExportPlan(source, tmp_path / "other", precision="fp32", max_length=64))
    assert plain.provenance.options == {}
    assert other.provenance.options == {"precision": "fp32", "max_length": 64}
    monkeypatch.setattr(sys, "argv", ["qvl-export", "inspect", str(tmp_path / "other")])
    cli.main()
    assert "  options   precision fp32, max length 64\n" in capsys.readouterr().out


def test_two_exports_are_the_same(source: Path, tmp_path: Path) -> None:
    first, second = (export(ExportPlan(source, tmp_path / name)) for name in ("first", "second"))
    dated = msgspec.structs.replace(second.provenance, created=first.provenance.created)
    assert msgspec.structs.replace(second, provenance=dated) == first


def test_every_file_is_listed(bundle: Callable[[str, str, str], Path]) -> None:
    directory = bundle(*FIRST, "fp16")
    assert set(names(directory)) - {"bundle.json"} == set(read_manifest(directory).files)


def test_the_schema_is_that_of_the_types_and_bundles_follow_it(bundle: Callable[[str, str, str], Path]) -> None:
    stored = (Path(qvl_runtime.__file__).parent / "bundle.schema.json").read_bytes()
    assert stored == json_schema(), "run `python -m qvl_runtime.manifest`"
    manifest = json.loads((bundle(*FIRST, "fp16") / "bundle.json").read_bytes())
    jsonschema.validate(manifest, json.loads(stored))
    with pytest.raises(jsonschema.ValidationError, match="extra"):
        jsonschema.validate({**manifest, "extra": 1}, json.loads(stored))


def test_what_appears_while_exporting_is_not_replaced(tmp_path: Path) -> None:
    """Without --force, a directory that was created in the meantime stays unchanged."""
    out = tmp_path / "out"

    def interfere() -> None:
        with bundles.writing(out, force=False):
            out.mkdir()
            (out / "thesis.txt").write_text("years of work")

    with pytest.raises(OutputError, match="exists and is not a bundle"):
        interfere()
    assert (out / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
