"""Standard ONNX graphs of every opset: valid, with the opset's own operators, and equal to transformers in numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import PreTrainedModel

from qvl_export import ExportPlan, export
from qvl_export.errors import ExportError
from qvl_export.exporting.options import GraphOptions
from qvl_export.exporting.pipeline import NullProgress
from qvl_export.graph.build import NAMED_CONSTANTS
from qvl_export.qtensor import QuantFormat
from qvl_export.targets import GraphForm, lower
from qvl_export.targets.portable import LINEAR_ATTENTION, OPSET, OPSETS
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import Model, load
from qvl_runtime.sessions.cpu import open_session, session_options
from tests.exporter.test_parity import STEPS, assert_close, cached_steps, greedy_answer, one_image
from tests.oracles import tiny
from tests.plans import export_plan
from tests.quant.layers import save_linear
from tests.quant.test_portable import WORST, quantized

Oracle = Callable[[str, str], PreTrainedModel]
Checkpoints = Callable[[str, str], Path]
CHOSEN = (OPSETS[0], 20, 21, OPSET, OPSETS[-1])
"""The opsets that every family is tested at: the first, the last without and the first with int4, default and last."""
RECURRENT = tuple(family for family in tiny.FAMILIES if family not in tiny.ATTENTION)
"""Families with linear attention, which only the last opset has."""
CASES: list[Any] = [(family, opset) for family in tiny.ATTENTION for opset in CHOSEN]
CASES += [(family, OPSETS[-1]) for family in RECURRENT]
CASES += [pytest.param("qwen2_5_vl", opset, marks=pytest.mark.slow) for opset in OPSETS if opset not in CHOSEN]


def exported(source: Path, out: Path, opset: int | None, cache: str | None = None, **options: Any) -> Path:
    export(ExportPlan(source, out, target="portable", graph=GraphOptions(opset, cache), **options))
    return out


def assert_parity(model: Model, reference: PreTrainedModel, precision: str) -> None:
    """All prompt logits, then cached steps along the reference's own greedy tokens; then again after a shorter past."""
    prompt = model.prompt([{"role": "user", "content": one_image()}], reserve=STEPS)
    everywhere, answer, tokens = greedy_answer(model, reference, prompt)
    for _ in range(2):  # the second prefill starts over with a cache that is too long
        logits = model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())
        assert_close(logits[-1:], everywhere[-1:], precision)
        assert_close(cached_steps(model, prompt, logits[-1], tokens), answer, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("family", "opset"), CASES)
def test_parity(
    oracle: Oracle, checkpoint: Checkpoints, tmp_path: Path, family: str, opset: int, precision: str
) -> None:
    out = exported(checkpoint(family, "small"), tmp_path / "b", opset, precision=precision)
    for name in ("vision", "llm"):
        model = onnx.load(out / f"{name}.onnx", load_external_data=False)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
        onnx.checker.check_model(str(out / f"{name}.onnx"))
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
        assert any(node.op_type == "Constant" for node in model.graph.node) == (opset > NAMED_CONSTANTS)
    with load(out, threads=1) as ours:
        assert_parity(ours, oracle(family, "small"), precision)


@pytest.mark.parametrize(("opset", "cache"), [(24, "concat"), (20, "scatter"), (21, None)])
def test_the_cache_has_the_form_that_was_chosen(
    oracle: Oracle, checkpoint: Checkpoints, tmp_path: Path, opset: int, cache: str | None
) -> None:
    out = exported(checkpoint("qwen2_5_vl", "small"), tmp_path / "b", opset, cache, precision="fp32")
    manifest, expected = read_manifest(out), cache or "concat"
    assert manifest.cache_form == expected
    names = {port.name for port in manifest.graphs["llm"].inputs}
    assert ("write_indices" in names) == (expected == "scatter")
    with load(out, threads=1) as ours:
        assert_parity(ours, oracle("qwen2_5_vl", "small"), "fp32")
    assert manifest.provenance.options.get("cache") == cache


@pytest.mark.parametrize("family", RECURRENT)
def test_linear_attention_has_its_first_opset_by_default(checkpoint: Checkpoints, tmp_path: Path, family: str) -> None:
    out = exported(checkpoint(family, "small"), tmp_path / "b", None)
    opsets = {
        name: onnx.load(out / f"{name}.onnx", load_external_data=False).opset_import[0].version
        for name in ("vision", "llm")
    }
    assert opsets == {"vision": OPSET, "llm": LINEAR_ATTENTION}
    assert read_manifest(out).cache_form == "scatter"


@pytest.mark.parametrize("family", RECURRENT)
@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ((20, None), "opset 20 has no linear attention, which family {} needs (use --opset 27, or leave it out)"),
        ((24, None), "opset 24 has no linear attention, which family {} needs (use --opset 27, or leave it out)"),
        ((27, "concat"), "family {} has linear attention and no --cache concat (leave it out)"),
        ((None, "concat"), "family {} has linear attention and no --cache concat (leave it out)"),
    ],
)
def test_linear_attention_refuses_other_forms(
    checkpoint: Checkpoints, tmp_path: Path, family: str, form: tuple[int | None, str | None], problem: str
) -> None:
    with pytest.raises(ExportError) as caught:
        exported(checkpoint(family, "small"), tmp_path / "b", *form)
    assert str(caught.value) == problem.format(family)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("opset", [17, 19, 20])
@pytest.mark.parametrize(
    "format",
    [QuantFormat(4, 32), QuantFormat(4, 32, True, True), QuantFormat(8, 96), QuantFormat(8, 32, True)],
    ids=["int4", "asymmetric", "rows", "bytes"],
)
def test_blocks_are_written_out_below_21(tmp_path: Path, format: QuantFormat, opset: int, precision: str) -> None:
    rng, tensor = np.random.default_rng(0), quantized(format)
    bias, x = rng.standard_normal(48).astype(np.float32), rng.standard_normal((9, 96)).astype(np.float32)
    save_linear(lower("portable", precision, 4, GraphForm(opset)), tensor, bias, tmp_path / "m.onnx")
    session = session_options(1)
    session.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # float inputs, as the graph says
    y = open_session(tmp_path / "m.onnx", session).run(None, {"x": x[None]})[0][0]
    expected = x.astype(np.float64) @ tensor.dequantize().T + bias
    assert np.abs(y - expected).max() < WORST[precision] * np.abs(expected).max()


def test_int4_becomes_8_bits_below_21(checkpoint: Checkpoints, tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(NullProgress):
        def stage(self, name: str, total: int | None = None) -> None:
            notes.append(name)

    plan = export_plan(
        tiny.REFERENCE, tmp_path / "b", target="portable", precision="int4", opset=20, samples=2, max_pixels=50176
    )
    llm = export(plan, Notes()).graphs["llm"]
    assert "note: opset 20 has no int4: weights get 8 bits, one scale per row" in notes
    assert all(format.startswith("int8 in blocks") for format in llm.linears.values())
    assert not any("int4" in kind for kind in llm.weight_bytes)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"opset": 16}, "opset 16 is not supported (17 to 27)"),
        ({"opset": 28}, "opset 28 is not supported (17 to 27)"),
        ({"opset": 20, "precision": "hybrid"}, "opset 20 has no int4, which --precision hybrid needs"),
        ({"opset": 20, "max_size": 1 << 30}, "opset 20 has no int4, which --max-size needs"),
        ({"cache": "ring"}, "cache 'ring' is not supported (one of scatter, concat)"),
        ({"opset": 20, "target": "cpu"}, "target cpu does not read --opset"),
        ({"cache": "concat", "target": "tensorrt-rtx"}, "target tensorrt_rtx does not read --cache"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ExportError) as caught:
        export(export_plan(tiny.REFERENCE, tmp_path / "b", **({"target": "portable"} | options)))
    assert problem in str(caught.value)
