"""Checks before the long work that the target supports the formats of a calibration, and that a size limit can be kept.

Both build graphs without weights, which takes seconds even for large models.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from qvl_runtime.manifest import Manifest

from ..graph.layer_graphs import Stage
from . import schemes
from .calibration.tower import Tower
from .context import CalibrationSetup
from .precision import MIXED
from .schemes import Scheme
from .towers import llm_tower, vision_tower


def check_formats(setup: CalibrationSetup) -> None:
    """Raises ExportError if a target does not support the format that a linear would get."""
    for name, precision in setup.precisions.items():
        make = vision_tower if name == "vision" else llm_tower
        for scheme in _schemes(name, precision, setup):
            tower = make(setup.spec, setup.targets[name], setup.tensors, lambda _: None)
            for stage in tower.stages:
                formats = {
                    linear: scheme.format(columns) for linear, columns in _linears(tower, tower.build(stage, {}))
                }
                tower.build(stage, formats)


def check_size(setup: CalibrationSetup, draft: Manifest) -> None:
    """Raises ExportError if no choice of precisions keeps the size limit; `draft` describes the bundle's text files."""
    if setup.limit and setup.limit.max_size is not None:
        from .mixed_precision import choose as mixed

        mixed.check_size(setup, draft)


def _schemes(name: str, precision: str, setup: CalibrationSetup) -> Iterator[Scheme]:
    """Yields the schemes that linears of the graph `name` may get."""
    if precision != MIXED:
        yield schemes.find(precision, setup.options)
        return
    from .mixed_precision.choose import CANDIDATES

    yield from (schemes.find(candidate, setup.options) for candidate in CANDIDATES[name])


def _linears(tower: Tower, stage: Stage) -> Iterator[tuple[str, int]]:
    """Yields the linears of a float stage with their number of columns."""
    for name in (name for names in stage.taps.values() for name in names):
        yield name, prod(tower.tensors[f"{name}.weight"].shape[1:])
