"""Quantization of a tower stage by stage, on what ships: the same modules, run by the same engine.

Every stage is calibrated on what the already quantized stages before it produce, and one stage at a time is in memory.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from ..graph import weights
from ..graph.build import Graph
from ..graph.folds import Fold
from ..graph.stages import Layouts, Stage
from ..processes import Pool
from ..safetensors_file import Tensor
from ..targets import Target
from .experts import quantize_experts, routed_outputs
from .noise import sqnr
from .qtensor import QTensor
from .question import Report
from .routed import Routed
from .running import open_session
from .schemes import Scheme
from .shards import Found, Here, Runner, Tap, Watch
from .smooth import best_scale
from .spread import Spread
from .statistics import Collector, Statistics
from .stored import packed_parts
from .work import LinearRecord, Quantized, StageRecord, Work

Floats = npt.NDArray[np.float32]

LEAST_SQNR = 15.0
"""Decibels; a linear whose outputs would be noisier under W8A8 stays float."""
LEAST_STATIC_SQNR = 35.0
"""The same where inputs have one static scale; of a linear that would be noisier only the weight is quantized."""
LOST_TOGETHER = 3.0
"""Decibels that may be lost for the speed of one scale for all tokens, the noise doubled: norms lose 1 to 3.6, gated
products 10."""


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

    def open(self, stage: Stage, quantized: Quantized, directory: Path) -> ort.InferenceSession:
        """A stage in the engine that will run it."""
        return open_session(self.write(stage, quantized, directory))

    def write(self, stage: Stage, quantized: Quantized, directory: Path) -> Path:
        """A stage with its weights as an export writes them; returns the file of its graph."""
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
        return directory / "stage.onnx"


def quantize_tower(tower: Tower, work: Work, report: Report, pool: Pool | None = None) -> Quantized:
    """Quantize every linear that has a scheme, from the samples that `work` holds; `report` is told of each stage.

    Pages are run on the machines of `pool`, or here: what is found is the same.

    Raises ExportError where weights or activations are not finite.
    """
    pending = [number for number in range(len(tower.stages)) if work.record(number) is None]
    began = time.monotonic()
    for count, number in enumerate(pending, 1):
        _quantize_stage(tower, number, work, pool)
        left = (time.monotonic() - began) / count * (len(pending) - count)
        rounded = record.rounded_experts if (record := work.record(number)) else 0
        few = f", {rounded} expert matrices saw too few tokens for GPTQ" if rounded else ""
        report(f"{tower.name}: {number + 1} of {len(tower.stages)} stages quantized{few}, about {left:.0f} s left")
    return work.quantized(*(record for number in range(len(tower.stages)) if (record := work.record(number))))


def _quantize_stage(tower: Tower, number: int, work: Work, pool: Pool | None) -> None:
    name = tower.stages[number]
    stage = tower.build(name, {})
    runner = Spread(pool, work, number) if pool else Here(partial(work.samples, number), work.directory)
    statistics, routed = observe(tower, stage, work, runner)
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
    model = tower.write(tower.build(name, quantized.layouts), quantized, work.directory)
    work.finish(number, record, runner.outputs(model))


def observe(tower: Tower, stage: Stage, work: Work, runner: Runner) -> tuple[dict[str, Statistics], list[Routed]]:
    """Statistics of the input of every linear, by the linear's name, and what experts are applied to."""
    watch = _watch(tower, stage, work.pages)
    collectors, routed = watch.collectors(), list[Routed]()
    if watch.outputs:
        model = tower.write(stage, Quantized(), work.directory)
        for found in runner.observed(model, watch):
            routed += _join(collectors, found)
            del found  # or it would stay in memory while the next is summed
    by_tap = {tap.output: collectors.pop(0).statistics() for tap in watch.taps}  # each frees its sum
    return {name: found for tap, found in by_tap.items() for name in stage.taps[tap]}, routed


def _join(collectors: list[Collector], found: Found) -> list[Routed]:
    """Add a shard's parts to those before it; returns its tokens that go to experts, if any do."""
    for collector, part in zip(collectors, found.parts, strict=True):
        collector.join(part)
    return [found.routed] if found.routed else []


def _watch(tower: Tower, stage: Stage, pages: int) -> Watch:
    """What to gather of a stage: inputs of linears that have a scheme."""
    taps = []
    for output, names in stage.taps.items():
        schemes = [scheme for name in names if (scheme := tower.scheme(name))]
        if schemes:
            taps.append(Tap(output, names[0], any(scheme.hessian for scheme in schemes)))
    return Watch(taps, pages, tower.vision_weight, routed_outputs(tower, stage), tower.experts_per_token)


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
