"""Tensor names of every library and trainer."""

from __future__ import annotations
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.numpy_helper import to_array
from safetensors.numpy import load_file
from qvl_export import ExportError, ExportPlan, export
from qvl_export.checkpoint import safetensors_writer
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized import gptq_writer as save_gptq
from qvl_export.checkpoint.quantized.detect import quantized_linears
from qvl_export.checkpoint.safetensors_reader import same_elements
from qvl_export.checkpoint.tensor_names import nested_name, published_name
from qvl_export.cli.main import cli
from qvl_export.common import atomic_output as atomic
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.calibration.saved_linear import SavedLinear
from qvl_export.quant.quantizer import Quantizer
from qvl_runtime.packing import unpack_nibbles
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan


@pytest.mark.parametrize("name", ["visual.merger.ln_q.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_names(name: str) -> None:
    assert published_name(nested_name(name)) == name
