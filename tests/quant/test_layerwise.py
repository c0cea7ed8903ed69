"""Calibration runs what ships, layer by layer, resumes after a kill, and improves accuracy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qvl_export import ExportError, export
from qvl_export.quant.schemes import int4
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import load
from tests.heldout import HELDOUT, divergence
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan
from tests.quant.stopping import quantized_stages, stopped_after

pytestmark = pytest.mark.slow

PAGES = 8
INT4: dict[str, Any] = {"llm_precision": "int4", "calib": HELDOUT, "samples": PAGES, "accuracy_level": 0}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int4") / "bundle"
    export(export_plan(REFERENCE, out, **INT4))
    return out


def test_it_improves_accuracy(
    calibrated: Path, reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPTQ is closer to float than round-to-nearest, and close at that."""
    monkeypatch.setattr(int4, "gptq", lambda weight, _, format: calibrate_nearest(weight, format))
    export(export_plan(REFERENCE, tmp_path / "nearest", **INT4))
    reference = load(reference_bundle, threads=1)
    ours, nearest = (divergence(reference, load(path, threads=1)) for path in (calibrated, tmp_path / "nearest"))
    assert ours < 0.8 * nearest
    assert ours < 0.03


def calibrate_nearest(weight: np.ndarray, format: Any) -> Any:
    from qvl_export.quant.gptq.solver import round_to_nearest

    return round_to_nearest(weight, format)


def test_only_the_language_model_is_quantized(calibrated: Path) -> None:
    graphs = read_manifest(calibrated).graphs
    assert graphs["llm"].precision == "int4 in blocks of 128, int8 in blocks of 128, else fp16"
    assert graphs["vision"].precision == "fp16"
    assert not list(calibrated.parent.glob(".*"))


def hashes(bundle: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in read_manifest(bundle).files.items()}


def test_a_killed_calibration_resumes(calibrated: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with stopped_after("llm", 2):
        export(export_plan(REFERENCE, out, **INT4))
    assert not out.exists()
    with quantized_stages() as quantized:
        export(export_plan(REFERENCE, out, **INT4))
    assert quantized == [("llm", 2), ("llm", 3)]
    assert hashes(out) == hashes(calibrated)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("change", [{"block_size": 64}, {"accuracy_level": 4}, {"max_pixels": 3136}], ids=str)
def test_other_settings_begin_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    with stopped_after("llm", 1):
        export(export_plan(REFERENCE, tmp_path / "b", **INT4))
    with quantized_stages() as quantized:
        export(export_plan(REFERENCE, tmp_path / "b", **{**INT4, **change}))
    assert quantized == [("llm", stage) for stage in range(4)]


def broken_set(tmp_path: Path, line: str) -> Path:
    calib = tmp_path / "set"
    calib.mkdir()
    shutil.copyfile(HELDOUT / "simple_0000.png", calib / "p.png")
    good = json.dumps({"image": "p.png", "prompt": "Read the text.", "answers": ["x"]})
    (calib / "labels.jsonl").write_text(f"{good}\n{line}\n")
    return calib


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"labels.jsonl:2: is malformed"),
        ('{"image": "p.png", "prompt": 3, "answers": ["x"]}', r"labels.jsonl:2: is malformed"),
        (
            '{"image": "../p.png", "prompt": "", "answers": ["x"]}',
            r"labels.jsonl:2: image '../p.png' is not inside the set",
        ),
        ('{"image": "p.png", "prompt": ""}', r"labels.jsonl:2: is malformed: .*`answers`"),
        ('{"image": "q.png", "prompt": "", "answers": ["x"]}', r"labels.jsonl:2: there is no image q.png"),
        (
            '{"image": "labels.jsonl", "prompt": "", "answers": ["x"]}',
            r"labels.jsonl: cannot be used for calibration: ",
        ),
    ],
)
def test_sets_that_cannot_be_used(tmp_path: Path, line: str, message: str) -> None:
    plan = export_plan(REFERENCE, tmp_path / "b", llm_precision="int4", calib=broken_set(tmp_path, line))
    with pytest.raises(ExportError, match=message):
        export(plan)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calib": HELDOUT}, "--calib is for quantization"),
        ({"llm_precision": "int3", "calib": HELDOUT}, "'int3' is not supported"),
        ({"llm_precision": "int4", "calib": HELDOUT, "block_size": 48}, "--block-size 48 is not supported"),
        ({"llm_precision": "int4", "calib": Path("nowhere")}, "nowhere: no such file or directory"),
    ],
)
def test_plans_that_cannot_be_done(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(export_plan(REFERENCE, tmp_path / "b", **options))


def test_calibration_needs_no_more_than_the_engine(calibrated: Path) -> None:
    """The bundle loads with stock ONNX Runtime, its int4 weights in MatMulNBits."""
    session = ort.InferenceSession(calibrated / "llm.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "logits"


def test_a_tied_table_is_stored_once_and_quantized(calibrated: Path) -> None:
    """Embedding and head read the same codes and scales."""
    graph = onnx.load(calibrated / "llm.onnx", load_external_data=False).graph
    tables = [tensor.name for tensor in graph.initializer if tensor.dims and tensor.dims[0] == 384]
    assert sorted(tables) == ["model.embed_tokens.codes", "model.embed_tokens.scales"]
    users = {node.op_type for node in graph.node if "model.embed_tokens.codes" in node.input}
    assert users == {"GatherBlockQuantized", "MatMulNBits"}
