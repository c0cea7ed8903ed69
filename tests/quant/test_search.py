"""A precision per linear from its sensitivities and a limit."""

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


TABLE = [Sensitivity(f"l{i}", (64, 64), {"int4": 0.01 * (i + 1), "int8": 0.001 * (i + 1)}) for i in range(4)]


BYTES = {"int4": 2, "int8": 4, "fp16": 8}


def nbytes(name: str, precision: str) -> int:
    return BYTES[precision]


def test_the_most_sensitive_keep_their_precision() -> None:
    assert search.solve(TABLE, Limit(max_kl=1.0), nbytes, 0) == dict.fromkeys(("l0", "l1", "l2", "l3"), "int4")
    assert search.solve(TABLE, Limit(max_kl=0.0101), nbytes, 0) == dict.fromkeys(("l0", "l1", "l2", "l3"), "int8")
    chosen = search.solve(TABLE, Limit(max_size=110), nbytes, 100)
    assert chosen == {"l0": "int4", "l1": "int4", "l2": "int4", "l3": "int8"}
    assert search.predicted(TABLE, chosen) == pytest.approx(0.064)


def test_a_size_that_cannot_be_kept() -> None:
    with pytest.raises(ExportError, match=r"no bundle fits in 107 bytes \(--max-size must be at least 108\)"):
        search.solve(TABLE, Limit(max_size=107), nbytes, 100)
