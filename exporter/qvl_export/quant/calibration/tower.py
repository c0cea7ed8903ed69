"""`Tower`: a stack of stages as calibration takes it, with its weights and what they are to become."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...checkpoint.safetensors_reader import Tensor
from ...graph import weights
from ...graph.build import Graph
from ...graph.layer_graphs import Layouts, Stage
from ...graph.packed_sources import packed_parts
from ...targets import Target
from ..schemes import Floats, Scheme
from .layer_session import open_session
from .work_dir import Quantized

MOST_OPEN = 4
"""Sessions of a stage that are open at a time, and the next one."""
if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort


@dataclass(frozen=True)
class Tower:
    """What is quantized: its stages in order, how each is built, its weights, and the scheme of each linear.

    `vision_weight` is what image tokens among others count in Hessians; `cache_scales` are those of the tower it shares
    a KV cache with. `experts_per_token` of its experts are chosen for each; where it is 0, they are rounded to
    nearest instead of by GPTQ. `per_tensor` allows all inputs of a linear one scale: where tokens always run together.
    """

    name: str
    stages: tuple[str, ...]
    build: Callable[[str, Layouts], Stage]
    target: Target
    tensors: Mapping[str, Tensor]
    scheme: Callable[[str], Scheme | None]
    vision_weight: float = 1.0
    cache_scales: Mapping[str, Floats] = field(default_factory=dict)
    experts_per_token: int = 0
    per_tensor: bool = False

    def tensor(self, name: str) -> Floats:
        """A stored tensor in float32; linears are [N, K] whatever shape the checkpoint has them in."""
        stored = self.tensors[name]
        flat = np.concatenate([chunk.astype(np.float32) for chunk in stored.chunks()])
        return flat.reshape(stored.shape[0], -1) if len(stored.shape) > 1 else flat

    def sources(self, graph: Graph) -> dict[str, weights.Source]:
        """Where the float weights of a graph are stored."""
        return weights.float_sources(graph, self.tensors)

    def open(self, stage: Stage, quantized: Quantized, directory: Path) -> ort.InferenceSession:
        """A stage in the engine that will run it."""
        return open_session(self.write(stage, quantized, directory))

    def write(self, stage: Stage, quantized: Quantized, directory: Path) -> Path:
        """A stage with its weights as an export writes them; returns the file of its graph."""
        graph = stage.graph
        sources: dict[str, weights.Source] = {
            **self.sources(graph),
            **quantized.tensors,
            **packed_parts(quantized.linears, self.target),
        }
        path = _free(directory)
        weights.write(graph, sources, path.with_suffix(".onnx.data"), hashlib.sha256(), lambda _: None)
        ir.save(graph.model, path)
        return path


def _free(directory: Path) -> Path:
    """A place for a graph whose weights no open session has mapped: they are removed first.

    Windows removes nothing that is mapped: there the next name is taken.
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
