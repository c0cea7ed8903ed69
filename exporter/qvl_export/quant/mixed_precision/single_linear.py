"""Quantizes one linear of a stage at a time and measures the error in the stage's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...common.arrays import Floats
from ...graph.layer_graphs import Stage
from ...qtensor import Activations, QuantFormat
from ..calibration.layer_session import through
from ..calibration.layerwise import quantize_linears
from ..calibration.smoothquant import smooth
from ..calibration.tower import Tower
from ..calibration.work_dir import Sample, StageRecord, Work
from ..schemes import Scheme
from ..statistics import Statistics
from .hidden_states import LinearNoise
from .pinned_scheme import PinnedScheme

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

PER_TENSOR = "together"
"""Suffix of a precision's name: one scale for all inputs, though one scale per token is more exact."""
Candidates = Mapping[str, Scheme]
"""Schemes by name, the coarsest first."""


class Smoothed(NamedTuple):
    """A stage after smoothing: the statistics of its linears' inputs, and the rewritten tensors."""

    statistics: Mapping[str, Statistics]
    tensors: Mapping[str, Floats]


@dataclass(frozen=True)
class StageNoise:
    """Measures the error of a stage's outputs on `samples`, against the outputs `exact` of the float stage."""

    tower: Tower
    stage: Stage
    work: Work
    samples: Sequence[Sample]
    exact: Sequence[Floats]

    def linears(self, statistics: Mapping[str, Statistics], schemes: Candidates) -> dict[str, LinearNoise]:
        """Quantizes every linear alone, in each scheme; smoothing is done as if all linears had that scheme.

        If a linear's inputs keep one scale per token, one scale for all inputs is measured as a separate precision.
        """
        found = {linear: LinearNoise(self.tower.shape(linear), {}, {}) for linear in statistics}
        for precision, scheme in schemes.items():
            uniform = replace(self.tower, scheme=dict.fromkeys(statistics, scheme).get)
            smoothed = smooth_stage(uniform, self.stage, statistics)
            for linear, noise in found.items():
                format = self._measure(linear, precision, scheme, smoothed, noise)
                if self.tower.per_tensor and format and format.activations is Activations.INT8_PER_TOKEN:
                    pinned = PinnedScheme(scheme, format.with_inputs_per_tensor())
                    self._measure(linear, f"{precision} {PER_TENSOR}", pinned, smoothed, noise)
        return found

    def _measure(
        self, linear: str, precision: str, scheme: Scheme, smoothed: Smoothed, noise: LinearNoise
    ) -> QuantFormat | None:
        """Adds the linear's format and error energy to `noise`; returns the format, None if it stays float."""
        alone = replace(self.tower, scheme={linear: scheme}.get)
        record = quantize_linears(alone, self.stage, smoothed.statistics, dict(smoothed.tensors), self.work)
        format = record.linears[linear].format
        if format:
            session = open_stage(alone, self.stage.graph.name, record, self.work)
            energies = [
                np.square(through(session, sample) - exact).sum()
                for sample, exact in zip(self.samples, self.exact, strict=True)
            ]
            noise.formats[precision], noise.noise[precision] = format, float(sum(energies))
        return format


def smooth_stage(tower: Tower, stage: Stage, statistics: Mapping[str, Statistics]) -> Smoothed:
    """Smooths the inputs of a stage's linears where their schemes allow it."""
    updated = dict(statistics)
    tensors, _ = smooth(tower, stage, updated)
    return Smoothed(updated, tensors)


def open_stage(tower: Tower, name: str, record: StageRecord, work: Work) -> ort.InferenceSession:
    """Opens a stage with its quantized linears in the engine."""
    quantized = work.quantized(record)
    return tower.open(tower.build(name, quantized.formats), quantized, work.directory)
