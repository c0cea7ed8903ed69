"""Quantization schemes: one module each, found by its name, whose `make(options)` returns a `Scheme`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...checkpoint.quantized.packed_words import BLOCKS
from ...common import libraries
from ...errors import ExportError
from ...qtensor import Layout, QTensor
from ..statistics import Statistics

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """What a scheme can be asked for: `block_size` columns a scale, weights of `reduce_range` for x86 without VNNI.

    `gptq_experts` has int4 experts quantized by GPTQ like other linears. Under W8A8 all inputs of a linear have one
    `static` scale.
    """

    block_size: int = 32
    reduce_range: bool = False
    gptq_experts: bool = True
    static: bool = False

    def __post_init__(self) -> None:
        """Raises ExportError for block sizes that kernels do not take."""
        if self.block_size not in BLOCKS:
            fix = f"one of {', '.join(map(str, BLOCKS))}"
            raise ExportError(f"--block-size {self.block_size} is not supported", fix=fix)


class Scheme(Protocol):
    """How a linear is quantized; pure."""

    @property
    def hessian(self) -> bool:
        """Whether `quantize` wants the Hessian of the inputs."""

    def layout(self, columns: int) -> Layout:
        """The form of a linear of `columns` inputs."""

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        """weight [N, K] for inputs such as `statistics` tells; raises ExportError for weights that are not finite."""


def available() -> list[str]:
    """The schemes by name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, options: Options) -> Scheme:
    """The scheme of a name.

    Raises ExportError for unknown names, options it does not take, and where PyTorch is missing, InstallError where
    ONNX Runtime is.
    """
    if name not in available():
        raise ExportError(f"precision {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    libraries.check()
    scheme: Scheme = importlib.import_module(f"{__name__}.{name}").make(options)
    return scheme
