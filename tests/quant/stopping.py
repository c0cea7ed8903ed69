"""Ends exports after a stage, as a kill would, and records the stages that a run quantizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from qvl_export.quant.calibration import layerwise
from qvl_export.quant.calibration.tower import Tower
from qvl_export.quant.mixed_precision.hidden_states import Step, Variants


class Stopped(Exception):
    pass


@contextlib.contextmanager
def quantized_stages() -> Iterator[list[tuple[str, int]]]:
    """Yields a list to which each stage is added before it is quantized: the tower's name and the stage's number."""
    found, original = list[tuple[str, int]](), layerwise.quantize_stage

    def quantize(tower: Tower, number: int, *rest: Any) -> None:
        found.append((tower.name, number))
        original(tower, number, *rest)

    with mock.patch.object(layerwise, "quantize_stage", quantize):
        yield found


@contextlib.contextmanager
def stopped_after(tower: str, stages: int) -> Iterator[None]:
    """The export in the block must end when it has quantized `stages` stages of `tower`."""
    original = layerwise.quantize_stage

    def quantize(quantized: Tower, number: int, *rest: Any) -> None:
        original(quantized, number, *rest)
        if (quantized.name, number + 1) == (tower, stages):
            raise Stopped

    with mock.patch.object(layerwise, "quantize_stage", quantize), pytest.raises(Stopped):
        yield


@contextlib.contextmanager
def stopped_after_measuring(stage: str) -> Iterator[None]:
    """The export in the block must end when the sensitivities of a stage's linears are measured."""
    original = Variants.finish

    def finish(variants: Variants, step: Step) -> None:
        original(variants, step)
        if step.name == stage:
            raise Stopped

    with mock.patch.object(Variants, "finish", finish), pytest.raises(Stopped):
        yield
