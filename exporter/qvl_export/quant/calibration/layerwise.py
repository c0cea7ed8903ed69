"""Quantizes a tower stage by stage, with the exported graph modules in the runtime's engine.

Each stage is calibrated on the outputs of the quantized stages before it. One stage at a time is in memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import msgspec

from qvl_runtime.common.log import timed

from ...common.arrays import Floats
from ...common.log import log
from ...common.progress import Report
from ...graph.layer_graphs import Stage
from ...jobs.pool import Pool
from ...qtensor import Activations, QTensor
from ..gptq.compensate import compensate
from ..output_error import sqnr
from ..schemes import Scheme
from ..statistics import Collector, Statistics
from .cluster import ClusterRunner
from .expert_tokens import Routed
from .experts import quantize_experts, routed_outputs
from .shards import CapturedInput, CaptureRequest, LocalRunner, Runner, ShardStatistics
from .smoothquant import smooth
from .tower import Tower
from .work_dir import LinearRecord, StageRecord, TowerResult, Work

LEAST_SQNR = 15.0
"""SQNR (dB) of a linear's outputs under W8A8 below which it stays float."""
LEAST_STATIC_SQNR = 35.0
"""SQNR (dB) of a linear's outputs with one static input scale below which only its weight is quantized."""
MOST_PER_TENSOR_LOSS = 3.0
"""Largest SQNR loss (dB) accepted for the speed of one activation scale per image instead of one per token. 3 dB
double the noise; inputs after norms lose 1 to 3.6 dB, gated products 10 dB."""


def quantize_tower(tower: Tower, work: Work, report: Report, pool: Pool | None = None) -> TowerResult:
    """Quantizes every linear that has a scheme, on the samples in `work`; reports each stage to `report`.

    Pages run on the machines of `pool`, or in this process; the result is the same.

    Raises ExportError if weights or activations are not finite.
    """
    pending = [number for number in range(len(tower.stages)) if work.record(number) is None]
    began = time.monotonic()
    for count, number in enumerate(pending, 1):
        with timed(log, "stage calibrated: %s", tower.stages[number]):
            quantize_stage(tower, number, work, pool)
        left = (time.monotonic() - began) / count * (len(pending) - count)
        rounded = record.rounded_experts if (record := work.record(number)) else 0
        note = f", {rounded} expert matrices had too few tokens for GPTQ" if rounded else ""
        report(f"{tower.name}: {number + 1} of {len(tower.stages)} stages quantized{note}, about {left:.0f} s left")
    return work.quantized(*(record for number in range(len(tower.stages)) if (record := work.record(number))))


def quantize_stage(tower: Tower, number: int, work: Work, pool: Pool | None) -> None:
    """Quantizes stage `number` of a tower on the samples in `work`, and saves its results and outputs there."""
    name = tower.stages[number]
    stage = tower.build(name, {})
    runner = ClusterRunner(pool, work, number) if pool else LocalRunner(partial(work.samples, number), work.directory)
    statistics, routed = collect_statistics(tower, stage, work, runner)
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
    model = tower.write(tower.build(name, quantized.formats), quantized, work.directory)
    work.finish(number, record, runner.outputs(model))


def collect_statistics(
    tower: Tower, stage: Stage, work: Work, runner: Runner
) -> tuple[dict[str, Statistics], list[Routed]]:
    """Returns the input statistics of every linear by name, and the tokens routed to experts."""
    request = _capture_request(tower, stage, work.pages)
    collectors, routed = request.collectors(), list[Routed]()
    if request.outputs:
        model = tower.write(stage, TowerResult(), work.directory)
        for shard in runner.statistics(model, request):
            routed += _join(collectors, shard)
            del shard  # free it before the next shard is summed
    # pop frees the sums of each collector
    by_output = {captured.output: collectors.pop(0).statistics() for captured in request.inputs}
    return {name: found for output, found in by_output.items() for name in stage.taps[output]}, routed


def _join(collectors: list[Collector], shard: ShardStatistics) -> list[Routed]:
    """Adds a shard's statistics to the collectors; returns its tokens routed to experts, if any."""
    for collector, part in zip(collectors, shard.parts, strict=True):
        collector.join(part)
    return [shard.routed] if shard.routed else []


def _capture_request(tower: Tower, stage: Stage, pages: int) -> CaptureRequest:
    """The inputs to capture from a stage: those of linears that have a scheme."""
    inputs = []
    for output, names in stage.taps.items():
        schemes = [scheme for name in names if (scheme := tower.scheme(name))]
        if schemes:
            inputs.append(CapturedInput(output, names[0], any(scheme.hessian for scheme in schemes)))
    return CaptureRequest(inputs, pages, routed_outputs(tower, stage), tower.experts_per_token)


def quantize_linears(
    tower: Tower, stage: Stage, statistics: Mapping[str, Statistics], rewritten: dict[str, Floats], work: Work
) -> StageRecord:
    """Quantizes and saves all linears of a stage, and saves the rewritten float tensors."""
    linears: dict[str, LinearRecord] = {}
    for name in stage.linears:
        scheme = tower.scheme(name)
        if scheme is None:
            continue
        weight = rewritten[f"{name}.weight"] if f"{name}.weight" in rewritten else tower.tensor(f"{name}.weight")
        tensor, level = _quantize_linear(scheme, weight, statistics[name], tower.per_tensor)
        linears[name] = LinearRecord(tensor.format if tensor else None, (weight.shape[0], weight.shape[1]), level)
        if tensor:
            work.save(name, tensor)
            rewritten.pop(f"{name}.weight", None)
    for name, values in rewritten.items():
        work.save_tensor(name, values)
    return StageRecord(linears, {name: list(tower.tensors[name].shape) for name in rewritten})


def _quantize_linear(
    scheme: Scheme, weight: Floats, statistics: Statistics, per_tensor: bool
) -> tuple[QTensor | None, float]:
    """The linear in a format that keeps enough SQNR, or None if it has to stay float; and its SQNR (dB)."""
    tensor = scheme.quantize(weight, statistics)
    level = sqnr(weight, tensor, statistics)
    if tensor.format.integer:
        tensor, level = _compensated(weight, tensor, statistics, level)
    static = tensor.format.activations is Activations.INT8_STATIC
    if not tensor.format.integer or level >= (LEAST_STATIC_SQNR if static else LEAST_SQNR):
        return (
            _per_tensor(weight, tensor, statistics, level) if per_tensor and tensor.format.integer else (tensor, level)
        )
    if not static:
        return None, level
    kept = tensor.weight_only()
    return kept, sqnr(weight, kept, statistics)


def _compensated(weight: Floats, nearest: QTensor, statistics: Statistics, level: float) -> tuple[QTensor, float]:
    """The linear with codes that compensate for each other's errors, unless its SQNR (dB) were lower; and its SQNR."""
    found = compensate(weight, nearest, statistics.tokens)
    reached = sqnr(weight, found, statistics)
    return (found, reached) if reached >= level else (nearest, level)


def _per_tensor(weight: Floats, tensor: QTensor, statistics: Statistics, level: float) -> tuple[QTensor, float]:
    """The linear with one activation scale per image if that loses at most MOST_PER_TENSOR_LOSS, and its SQNR (dB)."""
    faster = tensor.with_inputs_per_tensor()
    reached = sqnr(weight, faster, statistics)
    return (faster, reached) if reached >= level - MOST_PER_TENSOR_LOSS else (tensor, level)
