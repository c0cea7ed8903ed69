"""Quantizes one linear of a stage at a time and measures the error in the stage's output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...graph.layer_graphs import Stage
from ...qtensor import Activations, QuantFormat
from ..calibration.layer_session import through
from ..calibration.layerwise import quantize_linears
from ..calibration.smoothquant import smooth
from ..calibration.tower import Tower
from ..calibration.work_dir import Floats, Sample, StageRecord, Work
from ..schemes import Scheme
from ..statistics import Statistics
from .hidden_states import Part
from .pinned_scheme import Pinned

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

TOGETHER = "together"
"""Suffix of a precision's name: one scale for all inputs, though one scale per token is more exact."""
Candidates = Mapping[str, Scheme]
"""Schemes by name, the coarsest first."""


def try_linears(
    tower: Tower,
    stage: Stage,
    work: Work,
    samples: Sequence[Sample],
    statistics: Mapping[str, Statistics],
    schemes: Candidates,
    undisturbed: ort.InferenceSession,
) -> dict[str, Part]:
    """Tries every linear of a stage alone, in each scheme; smoothing is done as if all linears had that scheme.

    If a linear's inputs keep one scale per token, one scale for all inputs is tried as a separate precision.
    """
    trial = _Trial(tower, stage, work, samples, [through(undisturbed, sample) for sample in samples])
    parts = {linear: Part(shape_of(tower, linear), {}, {}) for linear in statistics}
    for precision, scheme in schemes.items():
        moved = smoothed(replace(tower, scheme=dict.fromkeys(statistics, scheme).get), stage, statistics)
        for linear, part in parts.items():
            form = trial.measure(part, linear, precision, scheme, *moved)
            if tower.per_tensor and form and form.activations is Activations.INT8_PER_TOKEN:
                together = Pinned(scheme, form.with_inputs_per_tensor())
                trial.measure(part, linear, f"{precision} {TOGETHER}", together, *moved)
    return parts


@dataclass(frozen=True)
class _Trial:
    """Tries a stage's linears one at a time, against the stage's float outputs `exact`."""

    tower: Tower
    stage: Stage
    work: Work
    samples: Sequence[Sample]
    exact: Sequence[Floats]

    def measure(
        self,
        part: Part,
        linear: str,
        precision: str,
        scheme: Scheme,
        statistics: Mapping[str, Statistics],
        rewritten: Mapping[str, Floats],
    ) -> QuantFormat | None:
        """Records the linear's format and noise in `part`; returns the format, None if it stays float."""
        alone = replace(self.tower, scheme={linear: scheme}.get)
        record = quantize_linears(alone, self.stage, statistics, dict(rewritten), self.work)
        form = record.linears[linear].format
        if form:
            session = open_stage(alone, self.stage.graph.name, record, self.work)
            noise = [
                np.square(through(session, sample) - exact).sum()
                for sample, exact in zip(self.samples, self.exact, strict=True)
            ]
            part.forms[precision], part.noise[precision] = form, float(sum(noise))
        return form


def shape_of(tower: Tower, linear: str) -> tuple[int, int]:
    """The linear's shape [N, K], whatever its shape in the checkpoint."""
    shape = tower.tensors[f"{linear}.weight"].shape
    return shape[0], math.prod(shape[1:])


def smoothed(
    tower: Tower, stage: Stage, statistics: Mapping[str, Statistics]
) -> tuple[dict[str, Statistics], dict[str, Floats]]:
    """Returns the statistics after smoothing, and the rewritten tensors."""
    moved = dict(statistics)
    rewritten, _ = smooth(tower, stage, moved)
    return moved, rewritten


def open_stage(tower: Tower, name: str, record: StageRecord, work: Work) -> ort.InferenceSession:
    """Opens a stage with its quantized linears in the engine."""
    quantized = work.quantized(record)
    return tower.open(tower.build(name, quantized.formats), quantized, work.directory)
