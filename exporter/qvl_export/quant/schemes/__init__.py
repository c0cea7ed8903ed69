"""Quantization schemes: one module per scheme, found by name.

Its `make(options)` returns a `Scheme`; READS names the fields of `Options` that the scheme reads.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Protocol

from qvl_runtime.manifest import ANY

from ...checkpoint.quantized.packed_words import BLOCKS
from ...common import libraries
from ...common.arrays import Floats
from ...errors import ExportError
from ...qtensor import QTensor, QuantFormat
from ..statistics import Statistics


@dataclass(frozen=True)
class Options:
    """Options of schemes: `block_size` columns per scale; `cpu`, the processors that W8A8 codes are for (one of
    `qvl_runtime.manifest.CPUS`; None: the products are not computed on a CPU).

    A `block_size` of None is the scheme's default. `gptq_experts` quantizes int4 experts by GPTQ like other linears.
    `static` gives all inputs of a W8A8 linear one static scale. `kv_bits` are the bits of keys and values in int4.
    """

    block_size: int | None = None
    cpu: str | None = ANY
    gptq_experts: bool = True
    static: bool = False
    kv_bits: int = 4

    def __post_init__(self) -> None:
        """Raises ExportError for block sizes that kernels do not support."""
        if self.block_size is not None and self.block_size not in BLOCKS:
            fix = f"one of {', '.join(map(str, BLOCKS))}"
            raise ExportError(f"--block-size {self.block_size} is not supported", fix=fix)


class Scheme(Protocol):
    """A way to quantize linears, without side effects."""

    @property
    def hessian(self) -> bool:
        """Whether `quantize` needs the Hessian of the inputs."""

    def of_linear(self, name: str) -> Scheme:
        """Returns the scheme of the linear called `name` in the checkpoint, if linears differ."""

    def format(self, columns: int) -> QuantFormat:
        """The quantization format of a linear with `columns` inputs."""

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        """Quantizes weight [N, K] for inputs with these statistics; raises ExportError if a weight is not finite."""


def available() -> list[str]:
    """The names of all schemes, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, options: Options) -> Scheme:
    """Returns the scheme called `name`.

    Raises ExportError for an unknown name or if PyTorch is missing, InstallError if ONNX Runtime is missing.
    """
    scheme: Scheme = _module(name).make(options)
    return scheme


def reads(name: str, option: str) -> bool:
    """Whether the scheme called `name` reads this field of `Options`; raises the errors of `find`."""
    return option in _module(name).READS


def _module(name: str) -> Any:
    if name not in available():
        raise ExportError(f"precision {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    libraries.check()
    return importlib.import_module(f"{__name__}.{name}")
