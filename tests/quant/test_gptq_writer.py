"""`--save-gptq`: int4 as a GPTQ checkpoint, bit for bit equal to the bundle, or a refusal.

That GPTQModel takes it is held by `load_in_gptqmodel.py`, which needs an environment of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.numpy_helper import to_array

from qvl_export import ExportError, ExportPlan, export
from qvl_export.checkpoint import safetensors_writer
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized import gptq_writer as save_gptq
from qvl_export.checkpoint.quantized.detect import quantized_linears
from qvl_export.checkpoint.safetensors_reader import same_elements
from qvl_export.cli.commands import cli
from qvl_export.common import atomic_output as atomic
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.calibration.saved_linear import SavedLinear
from qvl_export.quant.quantizer import Quantizer
from qvl_runtime.packing import unpack_nibbles
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

pytestmark = pytest.mark.slow

INT4: dict[str, Any] = {"llm_precision": "int4", "calib": HELDOUT, "samples": 2}
FORMAT = QuantFormat(4, 32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle and the GPTQ checkpoint saved with it."""
    directory = tmp_path_factory.mktemp("saved")
    export(export_plan(REFERENCE, directory / "bundle", save_gptq=directory / "gptq", **INT4))
    assert sorted(path.name for path in directory.iterdir()) == ["bundle", "gptq"]
    return directory / "bundle", directory / "gptq"


def test_weights_are_the_bundle_s_bit_for_bit(saved: tuple[Path, Path]) -> None:
    bundle, checkpoint = saved
    stored = {tensor.name: to_array(tensor) for tensor in onnx.load(bundle / "llm.onnx").graph.initializer}
    linears = quantized_linears(Checkpoint(checkpoint))
    assert len(linears) == 4 * 7
    for name, linear in linears.items():
        read = linear.read()
        assert np.array_equal(unpack_nibbles(stored[f"{name}.codes"], 32).reshape(read.codes.shape), read.codes), name
        assert np.array_equal(stored[f"{name}.scales"].reshape(read.scales.shape), read.scales), name
        assert read.zeros is None
    assert any((linear.read().scales < 0).any() for linear in linears.values())


def test_everything_else_is_the_source_s(saved: tuple[Path, Path]) -> None:
    source, ours = Checkpoint(REFERENCE), Checkpoint(saved[1])
    linears = quantized_linears(ours)
    for name, tensor in source.tensors.items():
        if name.removesuffix(".weight") in linears:
            assert name not in ours.tensors
        else:
            assert same_elements(ours.tensors[name], tensor), name
    for path in REFERENCE.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "config.json":
            assert (saved[1] / path.name).read_bytes() == path.read_bytes()
    config = ours.config
    assert config.pop("quantization_config") == ours.json("quantize_config.json")
    assert config == source.config


def test_an_export_of_it_is_the_same_decoder(saved: tuple[Path, Path], tmp_path: Path) -> None:
    """Only embedding and head differ: int8 in the bundle, float in the checkpoint."""
    export(ExportPlan(saved[1], tmp_path / "again"))
    first, again = (onnx.load(path / "llm.onnx").graph.initializer for path in (saved[0], tmp_path / "again"))
    theirs = {tensor.name: to_array(tensor).tobytes() for tensor in again if ".layers." in tensor.name}
    assert theirs == {tensor.name: to_array(tensor).tobytes() for tensor in first if ".layers." in tensor.name}


@pytest.mark.parametrize("low", [0, 1])
def test_zero_points_of_0_need_the_second_format(tmp_path: Path, low: int) -> None:
    rng, shape = np.random.default_rng(low), (16, 64)
    codes, zeros = rng.integers(0, 16, shape, dtype=np.uint8), rng.integers(low, 16, (16, 2), dtype=np.uint8)
    zeros[0, 0] = low
    tensor = QTensor(QuantFormat(4, 32, asymmetric=True), codes, rng.random((16, 2)).astype(np.float16), zeros)
    linear = SavedLinear("model.layers.0.x", tmp_path / "x.npz", tensor.format, *shape)
    linear.save(tensor)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    floats = {"model.layers.0.x.weight": np.zeros(shape, np.float32)}
    safetensors_writer.write(source, {name: Whole(value) for name, value in floats.items()}, lambda _: None)
    out = tmp_path / "out"
    out.mkdir()
    save_gptq.save(out, Checkpoint(source), {linear.name: linear}, lambda *_: None, lambda _: None)
    config = json.loads((out / "quantize_config.json").read_text())
    assert (config["checkpoint_format"], config["sym"]) == ("gptq" if low else "gptq_v2", False)
    read = quantized_linears(Checkpoint(out))[linear.name].read()
    assert np.array_equal(read.dequantize(), tensor.dequantize())


class Whole:
    """A tensor that is in memory."""

    def __init__(self, value: np.ndarray) -> None:
        self.value, self.dtype, self.shape = value, value.dtype, value.shape

    def chunks(self) -> Iterator[np.ndarray]:
        yield self.value


def full(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names:
        (directory / name).write_text("{}")
    return directory


def test_directories_that_are_refused(tmp_path: Path) -> None:
    """Before anything is calibrated: the calibration set does not exist."""
    plan: dict[str, Any] = {**INT4, "calib": Path("nowhere")}
    for place, message in [
        (full(tmp_path / "other", "notes.json"), "exists and is not a GPTQ checkpoint"),
        (full(tmp_path / "old", "quantize_config.json"), "already exists"),
        (tmp_path / "b", "must not contain OUT or lie in it"),
        (tmp_path / "b" / "inside", "must not contain OUT or lie in it"),
    ]:
        with pytest.raises(ExportError, match=message):
            export(export_plan(REFERENCE, tmp_path / "b", save_gptq=place, **plan))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "other"]


def test_shapes_that_the_format_does_not_take(tmp_path: Path) -> None:
    linear = SavedLinear("model.layers.0.self_attn.q_proj", tmp_path / "x", FORMAT, 20, 64)
    with pytest.raises(ExportError, match=r"q_proj \[20, 64\] does not fit .* --block-size"):
        save_gptq.check({linear.name: linear})


def test_it_needs_something_quantized(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="add --llm-precision int4"):
        export(export_plan(REFERENCE, tmp_path / "b", save_gptq=tmp_path / "g"))


def test_force_replaces_it_and_a_failure_leaves_the_old_one(
    saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = full(tmp_path / "old", "quantize_config.json")
    linears = quantized_linears(Checkpoint(saved[1]))

    def save() -> None:
        with atomic.writing(place, force=True, kind=save_gptq.GPTQ) as directory:
            save_gptq.save(directory, Checkpoint(REFERENCE), linears, lambda *_: None, lambda _: None)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(save_gptq, "write", fail)
        with pytest.raises(ExportError, match="No space left on device"):
            save()
    assert [path.name for path in place.iterdir()] == ["quantize_config.json"]
    save()
    assert (place / "model.safetensors").read_bytes() == (saved[1] / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["export", str(REFERENCE), str(tmp_path / "b"), "--save-gptq", str(tmp_path / "g")]
    )
    assert "--save-gptq writes int4 only" in str(result.exception)


def test_a_directory_that_cannot_be_written_is_refused_before_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quantizer, "tower", lambda *_: pytest.fail("calibrated first"))
    with pytest.raises(ExportError, match=r"/proc/gptq: cannot be written"):
        export(export_plan(REFERENCE, tmp_path / "b", save_gptq="/proc/gptq", **INT4))
    assert not list(tmp_path.iterdir())


def test_a_failure_of_either_leaves_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_gptq, "write", full)
    with pytest.raises(ExportError, match=r"/g: cannot be written: No space left on device"):
        export(export_plan(REFERENCE, tmp_path / "b", save_gptq=tmp_path / "g", **INT4))
    assert [path.name for path in tmp_path.iterdir()] == [".b.calibration"]
