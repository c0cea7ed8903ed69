"""Options of `export`: those that nothing reads are refused, and the number of threads is respected."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner

from qvl_export import export
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.exporting.option_checks import READ_BY, check_options
from qvl_export.exporting.plan import GROUP_OF
from qvl_runtime._onnxruntime.saturation import saturates
from qvl_runtime.sessions import cpu
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

ADD = "(add --precision int8 or int4, or leave it out)"
ADD_INT4 = "(add --precision int4, or leave it out)"
UNREAD = [
    (["--samples", "5"], f"--samples is for quantization {ADD}"),
    (["--samples", "128"], f"--samples is for quantization {ADD}"),
    (["--calib", "x"], f"--calib is for quantization {ADD}"),
    (["--threads", "1"], f"--threads is for quantization {ADD}"),
    (["--ray", "auto"], f"--ray is for quantization {ADD}"),
    (["--block-size", "32"], f"--block-size is for int4 {ADD_INT4}"),
    (["--precision", "int8", "--block-size", "64"], f"--block-size is for int4 {ADD_INT4}"),
    (["--cpu", "any"], "--cpu is for int8 (add --precision int8, or leave it out)"),
    (["--llm-precision", "int4", "--cpu", "vnni"], "--cpu is for int8 (add --precision int8, or leave it out)"),
    (
        ["--precision", "int8", "--target", "portable", "--cpu", "any"],
        "target portable does not read --cpu (leave it out)",
    ),
    (["--precision", "int8", "--no-gptq-experts"], f"--no-gptq-experts is for int4 of the language model {ADD_INT4}"),
    (["--precision", "int4", "--no-gptq-experts"], "--no-gptq-experts is for models with experts (leave it out)"),
    (["--accuracy-level", "4"], f"--accuracy-level is for a quantized language model {ADD_INT4}"),
    (
        ["--vision-precision", "int8", "--accuracy-level", "0"],
        f"--accuracy-level is for a quantized language model {ADD_INT4}",
    ),
    (
        ["--precision", "int4", "--target", "portable", "--accuracy-level", "0"],
        "target portable does not read --accuracy-level (leave it out)",
    ),
    (
        ["--precision", "int4", "--vision-precision", "fp16", "--llm-precision", "int8"],
        "--precision has no effect if both towers have their own "
        "(leave it out, or --vision-precision or --llm-precision)",
    ),
]


@pytest.mark.parametrize(("options", "said"), UNREAD, ids=[" ".join(options) for options, _ in UNREAD])
def test_an_option_that_nothing_reads_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(REFERENCE), str(tmp_path / "b"), *options])
    assert isinstance(done.exception, ExportError) and str(done.exception) == said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", READ_BY)
def test_every_option_of_the_table_is_one_of_the_command_and_of_the_plan(option: str) -> None:
    names = {
        name for parameter in cli.commands["export"].params for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert option in names and READ_BY[option].field in GROUP_OF


@pytest.mark.parametrize(
    "given",
    [
        {"precision": "int4", "block_size": 64, "accuracy_level": 0, "samples": 5},
        {"precision": "hybrid", "cpu": "vnni", "threads": 1},
        {"max_kl": 0.1, "block_size": 64, "cpu": "vnni", "samples": 3},
        {"precision": "hybrid", "block_size": 64},
        {"vision_precision": "int8", "llm_precision": "int8", "precision": "fp32"},
        {"vision_precision": "int4", "block_size": 64},
    ],
)
def test_options_that_something_reads_are_taken(given: dict) -> None:
    check_options(export_plan(REFERENCE, "b", **given, given=frozenset(given)))


class Recorder:
    """Keeps what an export says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.lines.append(text)

    def advance(self, count: int) -> None: ...


@pytest.mark.slow
def test_calibration_uses_its_threads_and_reports_missing_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saturates()  # cached after its first call, which opens a session of one thread
    monkeypatch.setattr(cpu, "cores", lambda: 7)  # the default of a session
    opened: list[int] = []
    whole = ort.InferenceSession

    def noted(path: object, options: ort.SessionOptions, **others: object) -> ort.InferenceSession:
        opened.append(options.intra_op_num_threads)
        return whole(path, options, **others)

    monkeypatch.setattr(ort, "InferenceSession", noted)
    pages = [HELDOUT / f"simple_{number:04}.png" for number in range(2)]
    before, recorder = torch.get_num_threads(), Recorder()
    plan = export_plan(
        REFERENCE, tmp_path / "b", precision="int8", calib=pages, threads=3, samples=9, given=frozenset({"samples"})
    )
    manifest = export(plan, recorder)
    assert opened and set(opened) == {3} and torch.get_num_threads() == before
    assert "--samples 9: there are only 2, and all are used" in recorder.lines
    assert manifest.provenance.calibration is not None and manifest.provenance.calibration.pages == 2
