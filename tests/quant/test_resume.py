"""The calibration directory: one export at a time, kept if a run can resume from it, removed if it cannot."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qvl_export import export
from qvl_export.cli.commands import cli, run
from qvl_export.errors import ExportError, OutputError, StoppedError
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration.resume import calibrating
from qvl_export.quant.calibration.work_dir import Work
from qvl_export.quant.mixed_precision import choose as mixed
from tests.evaluate.test_pool import eventually
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

INT4 = {"llm_precision": "int4", "samples": 2}
KEPT = r"; \S*/\.b\.calibration contains the finished work; run the command again to resume\n$"
STOPPING = """
import sys, time
from qvl_export.cli import main as cli
from qvl_export.quant.calibration import layerwise as calibrate
stage = calibrate.quantize_stage
def once(*arguments):
    stage(*arguments)
    print("one", flush=True)
    time.sleep(600)
calibrate.quantize_stage = once
sys.argv = ["qvl-export", "export", *sys.argv[1:], "--llm-precision", "int4", "--samples", "2", "--quiet"]
cli.main()
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def done(place: Path) -> bool:
    return any(place.rglob("stage.0.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]
)
def test_an_export_that_is_terminated_says_what_it_keeps(
    tmp_path: Path, how: signal.Signals, said: str, code: int
) -> None:
    out = tmp_path / "b"
    command = [sys.executable, "-c", STOPPING, str(REFERENCE), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "one\n"
        with pytest.raises(OutputError, match=r"b: is in use by another export \(wait until it ends"):
            export(export_plan(REFERENCE, out, **INT4))
        process.send_signal(how)
        _, errors = process.communicate()
    assert process.returncode == code
    assert re.fullmatch(rf"\s*{said}{KEPT}", errors)
    assert names(tmp_path) == [".b.calibration"] and done(tmp_path)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_kept_work_is_resumed_and_then_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "smooth", stop)
        with pytest.raises(KeyboardInterrupt) as interrupted:
            export(export_plan(REFERENCE, tmp_path / "b", **INT4))
    (note,) = interrupted.value.__notes__
    assert note == f"{tmp_path / '.b.calibration'} contains the finished work; run the command again to resume"
    (half,) = tmp_path.glob(".b.calibration/llm/*")
    (half / f".{'0' * 32}.tmp").touch()
    begun = []
    monkeypatch.setattr(Work, "keep", lambda self, stage, *_: begun.append(stage))
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "quantize_tower", stop)
        with pytest.raises(KeyboardInterrupt):
            export(export_plan(REFERENCE, tmp_path / "b", **INT4))
    assert not begun and not list(half.glob(".*"))


def broken_set(tmp_path: Path) -> Path:
    """Its second page cannot be read once calibration has begun."""
    calib = tmp_path / "set"
    calib.mkdir()
    shutil.copyfile(HELDOUT / "simple_0000.png", calib / "p.png")
    lines = [{"image": name, "prompt": "Read.", "answers": ["x"]} for name in ("p.png", "labels.jsonl")]
    (calib / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return calib


def test_after_bad_input_nothing_is_left(tmp_path: Path) -> None:
    plan = export_plan(REFERENCE, tmp_path / "b", **INT4, calib=broken_set(tmp_path))
    with pytest.raises(ExportError, match="cannot be used for calibration") as error:
        export(plan)
    assert names(tmp_path) == ["set"] and not hasattr(error.value, "__notes__")


def test_bad_input_takes_nothing_from_another_run(tmp_path: Path) -> None:
    other = tmp_path / ".b.calibration" / "llm" / "0123456789abcdef"
    other.mkdir(parents=True)
    (other / "stage.0.json").touch()
    with pytest.raises(ExportError), calibrating(tmp_path / "b"):
        raise ExportError("is no page")
    assert (other / "stage.0.json").is_file()


def fail(place: Path, error: BaseException, content: str | None) -> None:
    """Begin to calibrate, and fail."""
    with calibrating(place / "b"):
        work = Work(place / ".b.calibration" / "llm", {"pages": 1})
        if content is not None:
            (work.directory / "pages").write_text(content)
        raise error


@pytest.mark.parametrize(
    ("error", "content", "kept"),
    [
        (OSError(errno.ENOSPC, "full"), "1", True),
        (KeyboardInterrupt(), "1", True),
        (StoppedError("a process was ended by signal 9"), "1", True),
        (ExportError("is not finite"), "1", False),
        (KeyboardInterrupt(), None, False),
    ],
    ids=repr,
)
def test_only_what_helps_the_next_run_is_kept(
    tmp_path: Path, error: BaseException, content: str | None, kept: bool
) -> None:
    with pytest.raises(type(error)):
        fail(tmp_path / "new", error, content)
    assert (tmp_path / "new" / ".b.calibration").exists() is kept is (tmp_path / "new").exists()


def test_a_full_disk_while_calibrating_names_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / ".b.calibration" / "llm" / "x"))

    monkeypatch.setattr(calibrate, "smooth", full)
    with pytest.raises(OutputError, match=r"/b: cannot be written: No space left on device") as error:
        export(export_plan(REFERENCE, tmp_path / "b", **INT4))
    assert "contains the finished work" in error.value.__notes__[0]


def test_measured_sensitivities_outlive_a_limit_that_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / ".b.calibration" / "sensitivities" / "0123456789abcdef" / "table.json"

    def refused(*_: object) -> None:
        table.parent.mkdir(parents=True)
        table.write_text("[]")
        Work(tmp_path / ".b.calibration" / "llm", {}).directory.joinpath("pages").write_text("1")
        raise ExportError("no choice keeps it")

    monkeypatch.setattr(mixed, "choose", refused)
    with pytest.raises(ExportError, match="no choice keeps it"):
        export(export_plan(REFERENCE, tmp_path / "b", max_size=10_000_000, samples=1))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [table]


def test_a_requested_end_is_reported_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ended(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not eventually(lambda: False, 5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while it is cleared away

    monkeypatch.setattr(cli, "invoke", ended)
    with pytest.raises(SystemExit) as exit:
        run(cli, ["calib"])
    assert exit.value.code == 143 and capsys.readouterr().err == "terminated\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
