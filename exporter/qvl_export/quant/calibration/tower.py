"""`Tower`: a stack of stages for calibration, with its weights and their schemes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...checkpoint.safetensors_reader import Tensor
from ...common.arrays import Floats
from ...graph import weights
from ...graph.build import Graph
from ...graph.layer_graphs import Formats, Stage
from ...graph.packed_sources import packed_parts
from ...targets import Target
from ..schemes import Scheme
from .layer_session import open_session
from .work_dir import TowerResult

MOST_OPEN = 4
"""Names for stage files: the sessions that can be open at a time, and the next one."""
if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort


@dataclass(frozen=True)
class Tower:
    """A tower to quantize: its stages in order, a function that builds each, its weights, and the scheme per linear.

    `cache_scales` come from the tower that shares its KV cache. `experts_per_token` is the number of experts per token;
    if it is 0, experts are rounded to nearest instead of by GPTQ. `per_tensor` allows one scale for all inputs of a
    linear, if the tokens of an image always run together.
    """

    name: str
    stages: tuple[str, ...]
    build: Callable[[str, Formats], Stage]
    target: Target
    tensors: Mapping[str, Tensor]
    scheme: Callable[[str], Scheme | None]
    cache_scales: Mapping[str, Floats] = field(default_factory=dict)
    experts_per_token: int = 0
    per_tensor: bool = False

    def shape(self, linear: str) -> tuple[int, int]:
        """Returns a linear's shape [N, K], whatever its shape in the checkpoint."""
        shape = self.tensors[f"{linear}.weight"].shape
        return shape[0], math.prod(shape[1:])

    def tensor(self, name: str) -> Floats:
        """Reads a stored tensor in float32; linears become [N, K] whatever their shape in the checkpoint."""
        stored = self.tensors[name]
        flat = np.concatenate([chunk.astype(np.float32) for chunk in stored.chunks()])
        return flat.reshape(stored.shape[0], -1) if len(stored.shape) > 1 else flat

    def sources(self, graph: Graph) -> dict[str, weights.WeightSource]:
        """The sources of a graph's float weights."""
        return weights.float_sources(graph, self.tensors)

    def open(self, stage: Stage, quantized: TowerResult, directory: Path) -> ort.InferenceSession:
        """Writes a stage and opens it in the runtime's engine."""
        return open_session(self.write(stage, quantized, directory))

    def write(self, stage: Stage, quantized: TowerResult, directory: Path) -> Path:
        """Writes a stage with its weights as an export does; returns the path of its graph."""
        graph = stage.graph
        sources: dict[str, weights.WeightSource] = {
            **self.sources(graph),
            **quantized.tensors,
            **packed_parts(quantized.linears, self.target),
        }
        path = _free(directory)
        weights.write(graph, sources, path.with_suffix(".onnx.data"), hashlib.sha256(), lambda _: None)
        ir.save(graph.model, path)
        return path


def _free(directory: Path) -> Path:
    """A path for a graph whose weights no open session has mapped; old weights there are removed.

    Windows does not remove mapped files, so the next name is tried there.
    """
    refused: PermissionError | None = None
    for number in range(MOST_OPEN):
        path = directory / f"stage{number or ''}.onnx"
        try:
            path.with_suffix(".onnx.data").unlink(missing_ok=True)
            return path
        except PermissionError as error:
            refused = error
    assert refused is not None
    raise refused
