"""Checks before the long work that the target supports the formats of a calibration, and that a size limit can be kept.

Both build graphs without weights, which takes seconds for large models.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_runtime.manifest import Manifest

from ..graph.layer_graphs import Stage
from ..targets import Target
from . import schemes
from .context import CalibrationSetup
from .precision import CANDIDATES, MIXED
from .schemes import Scheme
from .towers import llm_tower, vision_tower


def check_formats(setup: CalibrationSetup) -> None:
    """Raises ExportError if a target does not support the format that a linear or an expert would get."""
    for name, precision in setup.precisions.items():
        make, target = vision_tower if name == "vision" else llm_tower, setup.targets[name]
        tower = make(setup.spec, target, setup.tensors, lambda _: None)
        stages = [tower.build(stage, {}) for stage in tower.stages]
        for scheme in _schemes(name, precision, setup):
            for stage in stages:
                for linear in stage.linears:
                    rows, columns = tower.shape(linear)
                    target.packed_form(rows, columns, scheme.of_linear(linear).format(columns))
                _check_experts(target, stage, scheme)


def check_size(setup: CalibrationSetup, draft: Manifest) -> None:
    """Raises ExportError if no choice of precisions keeps the size limit; `draft` describes the bundle's text files."""
    from .mixed_precision import choose as mixed  # imports PyTorch, which only calibration needs

    mixed.check_size(setup, draft)


def _schemes(name: str, precision: str, setup: CalibrationSetup) -> Iterator[Scheme]:
    """Yields the schemes that linears of the graph `name` may get."""
    if precision != MIXED:
        yield schemes.find(precision, setup.options)
        return
    yield from (schemes.find(candidate, setup.options) for candidate in CANDIDATES[name])


def _check_experts(target: Target, stage: Stage, scheme: Scheme) -> None:
    from .calibration.experts import expert_format  # imports PyTorch, which only calibration needs

    for weight in stage.experts.values():
        count, outputs, inputs = weight.source_shape
        target.packed_experts_form(count, outputs, inputs, expert_format(scheme, inputs))
