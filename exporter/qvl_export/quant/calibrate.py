"""GPTQ of the language model, layer by layer, on what ships: the same modules, run by the same engine.

Every layer is calibrated on what the already quantized layers before it produce, and one layer at a time is in memory.
What is done is kept in a work directory, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from ..families.spec import TextSpec
from ..graph import weights
from ..graph.build import Graph, build_decoder_layer
from ..graph.experts import StoredExperts
from ..graph.layers import Weight
from ..safetensors_file import StoredTensor
from ..targets import Target
from .gptq import gptq, round_to_nearest
from .qtensor import QTensor
from .samples import Sample
from .saved import SavedLinear
from .stored import packed_parts

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]
ROWS_BYTES = 16 << 20


class Calibration:
    """The state of one calibration: which layers are done, and what the next one's inputs are."""

    def __init__(self, work: Path, key: Mapping[str, object]) -> None:
        """Go on in `work` when it was begun with the same `key`, else begin anew."""
        self.work = work
        written = json.dumps(key, sort_keys=True)
        if not (work / "key.json").is_file() or (work / "key.json").read_text() != written:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            (work / "key.json").write_text(written)

    def done(self, index: int) -> bool:
        """Whether a layer is finished."""
        return (self.work / f"layer{index}.done").is_file()

    def finish(self, index: int, outputs: Sequence[Floats]) -> None:
        """Mark a layer as done, after the hidden states that follow it are saved."""
        for number, hidden in enumerate(outputs):
            np.save(self.work / f"hidden{index + 1}.{number}.npy", hidden)
        (self.work / f"layer{index}.done").touch()
        for old in self.work.glob(f"hidden{index}.*.npy"):
            old.unlink()

    def hidden(self, index: int, count: int) -> list[Floats]:
        """What layer `index` was left to begin with."""
        return [np.load(self.work / f"hidden{index}.{number}.npy") for number in range(count)]


@dataclass(frozen=True)
class Decoder:
    """The language model to quantize: its spec, the ops of its target, and its stored weights by published name."""

    spec: TextSpec
    target: Target
    tensors: Mapping[str, StoredTensor]

    def weight(self, linear: str) -> Floats:
        """A linear's weight [N, K] in float32."""
        stored = self.tensors[f"{linear}.weight"]
        return np.concatenate([chunk.astype(np.float32) for chunk in stored.chunks()]).reshape(stored.shape)

    def sources(self, graph: Graph) -> dict[str, weights.Source]:
        """Where the float weights of a graph are stored."""
        values = graph.model.graph.initializers.items()
        mine = {name: value for name, value in values if isinstance(value, Weight)}
        return weights.stored_sources(mine, self.tensors)

    def open(self, graph: Graph, linears: Mapping[str, SavedLinear], work: Path) -> ort.InferenceSession:
        """A layer with its weights as an export writes them, in the engine that will run it."""
        parts = packed_parts(linears, self.target)
        weights.write(
            graph, {**self.sources(graph), **parts}, work / f"{graph.name}.onnx.data", hashlib.sha256(), lambda _: None
        )
        ir.save(graph.model, work / f"{graph.name}.onnx")
        return ort.InferenceSession(work / f"{graph.name}.onnx", providers=["CPUExecutionProvider"])

    def feeds(self, index: int, hidden: Floats, sample: Sample) -> dict[str, np.ndarray]:
        """Inputs of layer `index`: all tokens at once, nothing cached."""
        count = hidden.shape[1]
        empty = np.zeros((1, self.spec.num_key_value_heads, 0, self.spec.head_dim), np.float32)
        feeds: dict[str, np.ndarray] = {
            "hidden": hidden,
            "position_ids": sample.positions[:, None],
            "past_key": empty,
            "past_value": empty,
            "seqlens_k": np.array([count - 1], np.int32),
            "total_sequence_length": np.array(count, np.int32),
        }
        if index < len(sample.deepstack):
            feeds["deepstack_features"] = sample.deepstack[index]
            feeds["image_positions"] = np.stack((np.zeros_like(sample.places), sample.places), axis=-1)
        return feeds


def quantize_decoder(
    decoder: Decoder,
    linears: Mapping[str, SavedLinear],
    samples: Sequence[Sample],
    calibration: Calibration,
    report: Report,
) -> None:
    """Fill `linears`, those of all decoder layers, with GPTQ; `report` is told of each finished layer.

    Raises ExportError where weights or activations are not finite.
    """
    states: list[Floats] | None = None
    began, layers = time.monotonic(), decoder.spec.num_layers
    pending = [index for index in range(layers) if not calibration.done(index)]
    for count, index in enumerate(pending, 1):
        if states is None:
            states = calibration.hidden(index, len(samples)) if index else [sample.hidden for sample in samples]
        mine = {name: linear for name, linear in linears.items() if name.startswith(f"model.layers.{index}.")}
        _quantize_layer(decoder, index, mine, states, samples, calibration.work)
        states = _outputs(decoder, index, mine, states, samples, calibration.work)
        calibration.finish(index, states)
        left = (time.monotonic() - began) / count * (len(pending) - count)
        report(f"layer {index + 1} of {layers} quantized, about {left:.0f} s left")


def quantize_rows(source: weights.Source, linear: SavedLinear) -> None:
    """Fill an embedding, a head or experts, round-to-nearest, some rows at a time: none of them knows of the others."""
    if linear.file.is_file():
        return
    chunks = source.chunks(ROWS_BYTES)
    pieces = [round_to_nearest(chunk.astype(np.float32).reshape(-1, linear.columns), linear.form) for chunk in chunks]
    codes, scales = (np.concatenate([getattr(piece, part) for piece in pieces]) for part in ("codes", "scales"))
    linear.save(QTensor(linear.form, codes, scales))


def _quantize_layer(
    decoder: Decoder,
    index: int,
    linears: Mapping[str, SavedLinear],
    states: Sequence[Floats],
    samples: Sequence[Sample],
    work: Path,
) -> None:
    """A layer's linears, each under the Hessian Σ x xᵀ of the tokens that the float layer gives it."""
    graph, taps = build_decoder_layer(decoder.spec, decoder.target, index)
    session = decoder.open(graph, {}, work)
    hessians: dict[str, Floats] = {}
    for state, sample in zip(states, samples, strict=True):
        for tap, value in zip(taps, session.run(list(taps), decoder.feeds(index, state, sample)), strict=True):
            hessians[tap] = hessians.get(tap, 0) + value[0].T @ value[0]
    for tap, names in taps.items():
        for name in names:
            linears[name].save(gptq(decoder.weight(name), hessians[tap], linears[name].form))
    for name, source in decoder.sources(graph).items():
        if isinstance(source, StoredExperts):
            quantize_rows(source, linears[name])


def _outputs(
    decoder: Decoder,
    index: int,
    linears: Mapping[str, SavedLinear],
    states: Sequence[Floats],
    samples: Sequence[Sample],
    work: Path,
) -> list[Floats]:
    """The hidden states after the quantized layer."""
    layouts = {name: linear.form for name, linear in linears.items()}
    graph, _ = build_decoder_layer(decoder.spec, decoder.target, index, layouts)
    session = decoder.open(graph, linears, work)
    return [
        session.run(["hidden_out"], decoder.feeds(index, state, sample))[0]
        for state, sample in zip(states, samples, strict=True)
    ]
