"""Quantization of a tower stage by stage, on what ships: the same modules, run by the same engine.

Every stage is calibrated on what the already quantized stages before it produce, and one stage at a time is in memory.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from qvl_runtime.sessions.cpu import session_options

from ..graph import weights
from ..graph.build import Graph
from ..graph.folds import Fold
from ..graph.stages import Layouts, Stage
from ..safetensors_file import Tensor
from ..targets import Target
from .experts import Routed, keep_routed, quantize_experts
from .noise import sqnr
from .qtensor import QTensor
from .question import Report
from .schemes import Scheme
from .smooth import best_scale
from .statistics import Collector, Statistics
from .stored import packed_parts
from .work import LinearRecord, Quantized, Sample, StageRecord, Work

Floats = npt.NDArray[np.float32]

LEAST_SQNR = 15.0
"""Decibels; a linear whose outputs would be noisier under W8A8 stays float."""
LEAST_STATIC_SQNR = 35.0
"""The same where inputs have one static scale; of a linear that would be noisier only the weight is quantized."""
LOST_TOGETHER = 2.0
"""Decibels that may be lost for the speed of one scale for all tokens; of norms 1 to 2 are, of gated products 10."""


@dataclass(frozen=True)
class Tower:
    """What is quantized: its stages in order, how each is built, its weights, and the scheme of each linear.

    `vision_weight` is what image tokens among others count in Hessians; `cache_scales` are those of the tower it shares
    a KV cache with. `experts_per_token` of its experts are chosen for each; where it is 0, they are rounded to
    nearest instead of by GPTQ. `per_tensor` allows all inputs of a linear one scale: where tokens always run together.
    """

    name: str
    stages: tuple[str, ...]
    build: Callable[[str, Layouts], Stage]
    target: Target
    tensors: Mapping[str, Tensor]
    scheme: Callable[[str], Scheme | None]
    vision_weight: float = 1.0
    cache_scales: Mapping[str, Floats] = field(default_factory=dict)
    experts_per_token: int = 0
    per_tensor: bool = False

    def tensor(self, name: str) -> Floats:
        """A stored tensor in float32; linears are [N, K] whatever shape the checkpoint has them in."""
        stored = self.tensors[name]
        flat = np.concatenate([chunk.astype(np.float32) for chunk in stored.chunks()])
        return flat.reshape(stored.shape[0], -1) if len(stored.shape) > 1 else flat

    def sources(self, graph: Graph) -> dict[str, weights.Source]:
        """Where the float weights of a graph are stored."""
        return weights.float_sources(graph, self.tensors)

    def token_weights(self, sample: Sample) -> Floats | None:
        """What each token counts [T], where they do not all count the same."""
        places = sample.feeds.get("image_positions")
        if places is None or self.vision_weight == 1:
            return None
        counts = np.ones(sample.hidden.shape[1], np.float32)
        counts[places[:, 1]] = self.vision_weight
        return counts

    def open(self, stage: Stage, quantized: Quantized, directory: Path) -> ort.InferenceSession:
        """A stage with its weights as an export writes them, in the engine that will run it."""
        graph = stage.graph
        sources: dict[str, weights.Source] = {
            **self.sources(graph),
            **quantized.tensors,
            **packed_parts(quantized.linears, self.target),
        }
        data = directory / "stage.onnx.data"
        data.unlink(missing_ok=True)  # an open session has the old one mapped
        weights.write(graph, sources, data, hashlib.sha256(), lambda _: None)
        ir.save(graph.model, directory / "stage.onnx")
        return open_session(directory / "stage.onnx")


def open_session(path: Path) -> ort.InferenceSession:
    """ONNX Runtime as the runtime sets it up."""
    return ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])


def quantize_tower(tower: Tower, work: Work, report: Report) -> Quantized:
    """Quantize every linear that has a scheme, from the samples that `work` holds; `report` is told of each stage.

    Raises ExportError where weights or activations are not finite.
    """
    pending = [number for number in range(len(tower.stages)) if work.record(number) is None]
    began = time.monotonic()
    for count, number in enumerate(pending, 1):
        _quantize_stage(tower, number, work)
        left = (time.monotonic() - began) / count * (len(pending) - count)
        rounded = record.rounded_experts if (record := work.record(number)) else 0
        few = f", {rounded} expert matrices saw too few tokens for GPTQ" if rounded else ""
        report(f"{tower.name}: {number + 1} of {len(tower.stages)} stages quantized{few}, about {left:.0f} s left")
    return work.quantized(*(record for number in range(len(tower.stages)) if (record := work.record(number))))


def _quantize_stage(tower: Tower, number: int, work: Work) -> None:
    name = tower.stages[number]
    stage = tower.build(name, {})
    routed = keep_routed(tower, stage, work)
    statistics = observe(tower, stage, work.samples(number), work, routed)
    rewritten, scales = smooth(tower, stage, statistics)
    record = quantize_linears(tower, stage, statistics, rewritten, work)
    experts, rounded = quantize_experts(tower, stage, routed, work)
    record = msgspec.structs.replace(
        record,
        linears=record.linears | experts,
        cache_scales={name: scale.tolist() for name, scale in scales.items()},
        rounded_experts=rounded,
    )
    if number + 1 == len(tower.stages):
        return work.finish(number, record, ())
    quantized = work.quantized(record)
    session = tower.open(tower.build(name, quantized.layouts), quantized, work.directory)
    work.finish(number, record, (run(session, sample, ["hidden_out"])[0] for sample in work.samples(number)))


def observe(
    tower: Tower, stage: Stage, samples: Iterator[Sample], work: Work, routed: Routed | None = None
) -> dict[str, Statistics]:
    """Statistics of the input of every linear, by the linear's name; `routed` gets what experts are applied to."""
    session = tower.open(stage, Quantized(), work.directory)
    schemes = {name: tower.scheme(name) for names in stage.taps.values() for name in names}
    wanted = {tap: [scheme for name in names if (scheme := schemes[name])] for tap, names in stage.taps.items()}
    taps = [tap for tap in stage.taps if wanted[tap]]
    collectors = {
        tap: Collector(stage.taps[tap][0], work.pages, any(scheme.hessian for scheme in wanted[tap])) for tap in taps
    }
    outputs = [*taps, *(routed.outputs if routed else ())]
    for sample in samples if outputs else ():
        values = run(session, sample, outputs)
        for tap, value in zip(taps, values[: len(taps)], strict=True):
            collectors[tap].add(value.reshape(-1, value.shape[-1]), tower.token_weights(sample))
        if routed:
            routed.add(values[-2], values[-1], tower.token_weights(sample))
    return {name: found for tap in taps for found in [collectors[tap].statistics()] for name in stage.taps[tap]}


def run(session: ort.InferenceSession, sample: Sample, outputs: list[str]) -> list[Floats]:
    feeds = {"hidden": sample.hidden, **sample.feeds}
    taken = {port.name: _as(feeds[port.name], port.type) for port in session.get_inputs()}
    found: list[Floats] = session.run(outputs, taken)
    return found


def _as(value: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """A cache of float16 where the stage has one."""
    return value.astype(np.float16) if kind == "tensor(float16)" else value


def smooth(
    tower: Tower, stage: Stage, statistics: dict[str, Statistics]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Even out the inputs of W8A8 linears where they can be, and scale what lies in the KV cache as was done before.

    Returns the tensors that this rewrites by name, and the scales of what lies in the cache. `statistics` become those
    of the inputs as they then are.
    """
    tensors: dict[str, Floats] = {}
    scales: dict[str, Floats] = {}

    def tensor(name: str) -> Floats:
        return tensors[name] if name in tensors else tower.tensor(name)

    def weights_of(fold: Fold) -> dict[str, Floats]:
        return {name: tensor(f"{name}.weight") for name in fold.linears}

    for fold in stage.folds:
        if fold.source in tower.cache_scales:
            mine, scale = weights_of(fold), tower.cache_scales[fold.source]
        elif scheme := _integer_scheme(tower, fold):
            mine = weights_of(fold)
            scale = best_scale(fold, mine, statistics[fold.linears[0]], scheme)
        else:
            continue
        if fold.cached:
            scales[fold.source] = scale
        for name in fold.linears:
            tensors[f"{name}.weight"] = mine[name] * scale[fold.channels]
            statistics[name] = statistics[name].divided(scale[fold.channels])
        for name in (f"{fold.source}.weight", f"{fold.source}.bias"):
            if name in tower.tensors:
                tensors[name] = _divide_rows(tensor(name), scale)
    return tensors, scales


def _integer_scheme(tower: Tower, fold: Fold) -> Scheme | None:
    """The scheme of the fold's linears where all of them multiply integers."""
    schemes = [tower.scheme(name) for name in fold.linears]
    return schemes[0] if all(scheme and scheme.layout(1).integer for scheme in schemes) else None


def _divide_rows(tensor: Floats, scale: Floats) -> Floats:
    """A norm's gains, a bias, or the rows of a weight, divided by `scale`; what is beyond its end stays."""
    divided = tensor.copy()
    divided[: len(scale)] /= scale if tensor.ndim == 1 else scale[:, None]
    return divided


def quantize_linears(
    tower: Tower, stage: Stage, statistics: Mapping[str, Statistics], rewritten: dict[str, Floats], work: Work
) -> StageRecord:
    """Quantize and keep all linears of a stage, and keep the float tensors that were rewritten."""
    linears: dict[str, LinearRecord] = {}
    for name in (name for names in stage.taps.values() for name in names):
        scheme = tower.scheme(name)
        if scheme is None:
            continue
        weight = rewritten[f"{name}.weight"] if f"{name}.weight" in rewritten else tower.tensor(f"{name}.weight")
        tensor, level = _quantized(scheme, weight, statistics[name], tower.per_tensor)
        linears[name] = LinearRecord(tensor.layout if tensor else None, (weight.shape[0], weight.shape[1]), level)
        if tensor:
            work.save(name, tensor)
            rewritten.pop(f"{name}.weight", None)
    for name, values in rewritten.items():
        work.save_tensor(name, values)
    return StageRecord(linears, {name: list(tower.tensors[name].shape) for name in rewritten})


def _quantized(
    scheme: Scheme, weight: Floats, statistics: Statistics, per_tensor: bool
) -> tuple[QTensor | None, float]:
    """The linear as its outputs can bear it, None where it has to stay float, and its ratio in dB under the scheme."""
    tensor = scheme.quantize(weight, statistics)
    level = sqnr(weight, tensor, statistics)
    if not tensor.layout.integer or level >= (LEAST_STATIC_SQNR if tensor.layout.static else LEAST_SQNR):
        return _together(weight, tensor, statistics, level) if per_tensor and tensor.layout.integer else (tensor, level)
    return (tensor.weight_only() if tensor.layout.static else None), level


def _together(weight: Floats, tensor: QTensor, statistics: Statistics, level: float) -> tuple[QTensor, float]:
    """The linear with its inputs rounded all together, where its outputs hardly suffer, and its ratio."""
    faster = tensor.with_inputs_per_tensor()
    reached = sqnr(weight, faster, statistics)
    return (faster, reached) if reached >= level - LOST_TOGETHER else (tensor, level)
