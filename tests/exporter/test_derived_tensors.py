"""Tensors that are computed from stored ones when they are read."""

from __future__ import annotations
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from qvl_export import ExportError, ExportPlan, export, families
from qvl_export.checkpoint.derived_tensors import interpolation_matrix
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.safetensors_reader import StoredTensor
from qvl_export.families import qwen, read_spec
from qvl_export.graph.build import build_llm, build_vision
from qvl_export.graph.weight_matching import match
from qvl_export.targets import lower
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.errors import PromptError
from qvl_runtime.grounding import Box
from qvl_runtime.model import Model, load
from qvl_runtime.positions import ntk_alpha
from qvl_runtime.preprocess import patchify
from qvl_runtime.prompts.prompt import Media, place_media
from qvl_runtime.templates.chat import ChatTemplate
from tests.conftest import Loader
from tests.exporter.test_parity import assert_close, image, oracle_inputs, ways
from tests.oracles import tiny
from tests.oracles.families import qwen as tiny_qwen
from tests.oracles.qwen_vl import QwenVl
from tests.plans import export_plan
from tests.quant.test_awq_checkpoint import CONFIG, quantized


@pytest.mark.parametrize("sizes", [(16, 32), (16, 8), (16, 16), (16, 5), (7, 19), (1, 4)])
def test_tables_are_interpolated_as_pytorch_does(sizes: tuple[int, int]) -> None:
    size, wanted = sizes
    table = torch.randn(1, 3, size, size, generator=torch.manual_seed(0))
    expected = torch.nn.functional.interpolate(table, (wanted, wanted), mode="bicubic", align_corners=False)
    matrix = interpolation_matrix(size, wanted)
    assert np.abs(matrix @ table[0].numpy() @ matrix.T - expected[0].numpy()).max() < 1e-5
