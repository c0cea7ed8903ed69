"""The precisions of the two towers."""

from __future__ import annotations
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
import numpy as np
import onnx
import pytest
from qvl_export import ExportError, export
from qvl_export.graph.scale_folds import Fold
from qvl_export.quant.calibration import smoothquant as smooth
from qvl_export.quant.precision import of_towers
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.errors import BundleError
from qvl_runtime.manifest import MANIFEST
from qvl_runtime.model import Model, load
from tests.exporter import damage as d
from tests.heldout import HELDOUT, Item, divergence, items
from tests.oracles.tiny import FAMILIES, REFERENCE
from tests.plans import export_plan
from tests.quant.stopping import quantized_stages, stopped_after
from tests.quant.test_calibrate import hashes


PAGES = 8


PLAN: dict[str, Any] = {"calib": HELDOUT, "samples": PAGES}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The reference checkpoint's bundle of a precision."""
    here = tmp_path_factory.mktemp("precisions")

    def get(precision: str) -> Path:
        if not (here / precision).exists():
            export(export_plan(REFERENCE, here / precision, precision=precision, **PLAN))
        return here / precision

    return get


@pytest.fixture
def hybrid(bundles: Callable[[str], Path]) -> Model:
    return load(bundles("hybrid"), threads=1)


def test_towers_choose_for_themselves() -> None:
    assert of_towers("hybrid") == {"vision": "int8", "llm": "int8", "llm_decode": "int4"}
    assert of_towers("fp16", llm="hybrid") == {"vision": "fp16", "llm": "int8", "llm_decode": "int4"}
    assert of_towers("hybrid", llm="int4") == {"vision": "int8", "llm": "int4"}
