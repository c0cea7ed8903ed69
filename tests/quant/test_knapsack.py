"""The knapsack is solved as by trying everything."""

from __future__ import annotations
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_export import ExportError, ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.cli.main import cli, run
from qvl_export.common.progress import NullProgress
from qvl_export.exporting import pipeline
from qvl_export.exporting.option_checks import adjusted_spec
from qvl_export.families import read_spec
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration.work_dir import Sample
from qvl_export.quant.calibration_data.selection import Pages
from qvl_export.quant.limit import Limit
from qvl_export.quant.mixed_precision import choose as mixed
from qvl_export.quant.mixed_precision import measure, search
from qvl_export.quant.mixed_precision.bundle_size import Sizes
from qvl_export.quant.mixed_precision.hidden_states import FLOAT_MODEL, LinearNoise, Step, Variants
from qvl_export.quant.mixed_precision.knapsack import BUCKETS, choose
from qvl_export.quant.mixed_precision.measure import Pace
from qvl_export.quant.mixed_precision.sensitivity_table import Sensitivity
from qvl_export.targets import lower
from qvl_runtime.bundle import read_manifest
from qvl_runtime.common.exit_codes import BAD_INPUT
from qvl_runtime.model import load
from tests.heldout import HELDOUT, divergence
from tests.oracles.tiny import FAMILIES, REFERENCE
from tests.plans import changed, export_plan
from tests.quant.stopping import Stopped, quantized_stages, stopped_after, stopped_after_measuring


options = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(options, min_size=1, max_size=5), st.floats(0.5, 40))
def test_knapsack_against_trying_everything(items: list[list[tuple[float, float]]], limit: float) -> None:
    """Never above the limit, and no worse than the best that keeps the rounding's distance from it."""
    costs, weights = [[c for c, _ in item] for item in items], [[w for _, w in item] for item in items]

    def totals(chosen: tuple[int, ...]) -> tuple[float, float]:
        return tuple(sum(part[i][k] for i, k in enumerate(chosen)) for part in (costs, weights))

    every = [totals(chosen) for chosen in itertools.product(*(range(len(item)) for item in items))]
    found = choose(costs, weights, limit)
    margin = limit * (1 - len(items) / BUCKETS)
    if found is None:
        assert min(weight for _, weight in every) > margin
        return
    cost, weight = totals(tuple(found))
    assert weight <= limit * (1 + 1e-9)
    assert cost <= min((c for c, w in every if w <= margin), default=np.inf) + 1e-9


@pytest.mark.parametrize("count", [1, 7, 300])
def test_the_lightest_options_are_chosen_at_exactly_their_weight(count: int) -> None:
    """Not only well above it, where what rounding adds to every item has room."""
    costs, weights = [[2.0, 1.0]] * count, [[3.0, 4.0]] * count
    assert choose(costs, weights, 3.0 * count) == [0] * count
    assert choose(costs, weights, 3.0 * count + 1) == [*[0] * (count - 1), 1][::-1]
    assert choose(costs, weights, 3.0 * count - 0.01) is None
