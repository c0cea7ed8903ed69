"""Linear layers with inputs to compare quantizers on, structured random ones and those of the reference checkpoint; and
one quantized linear as a model of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder
from tokenizers import Tokenizer

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import read_spec
from qvl_export.graph.build import FLOAT, add_input, add_output, empty_graph
from qvl_export.qtensor import QTensor
from qvl_export.quant.calibration.layer_session import run
from qvl_export.quant.calibration.work_dir import Sample, TowerResult
from qvl_export.quant.calibration_data.prompts import Sampler
from qvl_export.quant.calibration_data.selection import select
from qvl_export.quant.towers import llm_tower
from qvl_export.targets import PackedWeight, Target, lower
from qvl_runtime.bundle import read_manifest
from qvl_runtime.sessions.cpu import open_vision
from qvl_runtime.templates.chat import ChatTemplate

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "checkpoints" / "reference"
PAGES = ROOT / "calib_data" / "calibration"
SHAPES = (96, 256), (256, 128), (64, 640)


@dataclass(frozen=True)
class Layer:
    """weight [N, K] and inputs [tokens, K], float32."""

    name: str
    weight: np.ndarray
    inputs: np.ndarray

    @property
    def hessian(self) -> np.ndarray:
        return self.inputs.T @ self.inputs

    def error(self, quantized: np.ndarray) -> float:
        """‖X Wᵀ − X Qᵀ‖ / ‖X Wᵀ‖."""
        exact = self.inputs.astype(np.float64) @ self.weight.astype(np.float64).T
        return float(np.linalg.norm(exact - self.inputs.astype(np.float64) @ quantized.T) / np.linalg.norm(exact))


def random_layer(rows: int, columns: int, seed: int) -> Layer:
    """Correlated inputs of unequal loudness, one channel in fifty an outlier; weights with heavy tails."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) / columns**0.5 + np.eye(columns)
    loudness = np.exp(0.7 * rng.standard_normal(columns))
    loudness[rng.choice(columns, columns // 50, replace=False)] *= 30
    inputs = (rng.standard_normal((2048, columns)) @ mixing) * loudness
    weight = rng.standard_t(5, (rows, columns)) / columns**0.5
    return Layer(f"random {rows} × {columns}", weight.astype(np.float32), inputs.astype(np.float32))


def reference_layers(pages: int = 6) -> Iterator[Layer]:
    """Every linear of the reference checkpoint's decoder, with what the float model gives it on calibration pages."""
    source = Checkpoint(REFERENCE)
    tower = llm_tower(read_spec(source), lower("cpu", "fp32"), source.tensors, lambda _: None)
    with tempfile.TemporaryDirectory() as directory:
        samples = list(_samples(source, Path(directory), pages))
        for name in tower.stages:
            stage = tower.build(name, {})
            session = tower.open(stage, TowerResult(), Path(directory))
            runs = [run(session, sample, ["hidden_out", *stage.taps]) for sample in samples]
            samples = [Sample(found[0], sample.feeds) for found, sample in zip(runs, samples, strict=True)]
            for place, linears in enumerate(stage.taps.values(), 1):
                inputs = np.concatenate([found[place][0] for found in runs])
                yield from (Layer(linear, tower.tensor(f"{linear}.weight"), inputs) for linear in linears)


def _samples(source: Checkpoint, directory: Path, pages: int) -> Iterator[Sample]:
    bundle = directory / "bundle"
    export(ExportPlan(REFERENCE, bundle, precision="fp32"))
    described = read_manifest(bundle)
    template = ChatTemplate((bundle / "chat_template.jinja").read_text("utf-8"), bundle)
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    sampler = Sampler(select(PAGES, pages), lambda _: None, described, template, tokenizer)
    return sampler.tokens(open_vision(bundle, described, 1), source.tensors["model.embed_tokens.weight"])


def random_layers() -> Iterator[Layer]:
    """One of each shape, by seed."""
    yield from (random_layer(*shape, seed) for seed, shape in enumerate(SHAPES))


def save_linear(target: Target, tensor: QTensor, bias: np.ndarray | None, path: Path) -> None:
    """The target's own operators for one quantized linear, x [1, S, K] → y, its weights as a bundle holds them."""
    rows, columns = tensor.codes.shape
    graph, packed = empty_graph("linear", target), target.pack(tensor)
    x, op = add_input(graph, "x", FLOAT, [1, "s", columns]), GraphBuilder(graph).op
    parts = {}
    for name, (shape, dtype) in target.packed_form(rows, columns, tensor.format).items():
        parts[name] = op.initializer(stored(packed[name], dtype, shape, name), name)
    added = None if bias is None else op.initializer(ir.tensor(bias, name="bias"), "bias")
    y = target.quantized_linear(op, x, PackedWeight(parts, tensor.format, rows, columns), added)
    add_output(graph, y, "y", None)
    ir.save(ir.Model(graph, ir_version=target.ir_version), path)


def stored(packed: np.ndarray, dtype: ir.DataType, shape: Sequence[int], name: str) -> ir.TensorProtocol:
    """A part of a packed weight as a graph stores it; types smaller than a byte are packed."""
    raw = packed if dtype.bitwidth < 8 else packed.astype(dtype.numpy())
    proto = onnx.TensorProto(name=name, data_type=int(dtype), dims=shape, raw_data=np.ascontiguousarray(raw).tobytes())
    return ir.from_proto(proto)
