"""The size of a bundle before it is written, to the byte."""

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
from .test_mixed import size_of


@pytest.mark.parametrize(
    ("family", "target"),
    [*((family, "cpu") for family in FAMILIES), ("qwen2_5_vl", "cuda"), ("qwen2_5_vl", "portable")],
)
def test_sizes_are_those_of_bundles(
    checkpoint: Callable[[str, str], Path], tmp_path: Path, family: str, target: str
) -> None:
    """To the byte, for every family and target."""
    plan = ExportPlan(checkpoint(family, "deep"), tmp_path / "b", target=target)
    manifest = export(plan)
    spec = adjusted_spec(plan, read_spec(Checkpoint(Path(plan.checkpoint))))
    texts = {name: entry for name, entry in manifest.files.items() if ".onnx" not in name}
    draft = msgspec.structs.replace(manifest, files=texts, graphs={})
    sizes = Sizes(spec, dict.fromkeys(("vision", "llm"), lower(target, "fp16")), {}, draft)
    assert sizes.bundle({}) == size_of(tmp_path / "b")
