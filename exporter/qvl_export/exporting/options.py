"""The options of an export in groups; every field is one option of `qvl-export export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_runtime.manifest import ANY

from ..common.field_types import Checked
from ..engines import PROFILES


@dataclass(frozen=True)
class QuantOptions(Checked):
    """Precisions that differ from that of the plan, and how linears are quantized.

    Raises ExportError for values of a wrong type.
    """

    vision_precision: str | None = None
    """Precision of the vision tower (default: that of the plan)."""
    llm_precision: str | None = None
    """Precision of the language model (default: that of the plan)."""
    max_kl: float | None = None
    """Largest mean KL divergence of the answers from the checkpoint's, in nats per token; replaces a precision: each
    linear gets the precision that its measured cost allows."""
    max_size: int | None = None
    """Largest size of the bundle in bytes; replaces a precision like `max_kl`."""
    block_size: int | None = None
    """Columns that share a scale in int4 linears (default: 128 in decoder layers for `cpu`, `cuda` and `web`, where
    keys and values get 8 bits; else 32)."""
    accuracy_level: int = 4
    """4 multiplies 4- and 8-bit weights with activations rounded to int8; 0 keeps activations float32."""
    cpu: str = ANY
    """The processors that int8 codes are for: "any" and "avx2" are exact and fast on all; "vnni", "amx" and "arm" are
    slightly more accurate, and slow on x86 without VNNI (see docs/quantizing.md). The machine that exports has no
    influence."""
    int8_attention: bool = False
    """Whether attention in an int8 vision tower has int8 products too: faster for large pages on most processors, at
    some cost in accuracy (see docs/quantizing.md)."""
    gptq_experts: bool = True
    """Whether GPTQ quantizes int4 experts; rounding them to nearest is several times faster."""
    rotate: bool = False
    """Experimental: folds a rotation of hidden states into the weights of the language model. The answers of a float
    bundle do not change; a quantized one is more accurate if a few channels are far larger than the others (see
    docs/decisions.md)."""
    save_gptq: str | Path | None = None
    """Directory to which the int4 language model is also written as a GPTQ checkpoint."""


@dataclass(frozen=True)
class CalibrationOptions(Checked):
    """The pages that quantization is calibrated on, and the machines that run them.

    Raises ExportError for values of a wrong type.
    """

    calib: str | Path | Sequence[str | Path] = ()
    """Calibration sets (directories with `labels.jsonl`), images, PDFs, or directories of these (default: the built-in
    set)."""
    samples: int = 128
    """Maximum number of pages to calibrate on, spread evenly over everything in `calib`."""
    calib_prune: str | float | bool | None = None
    """What is left out of the calibration pages, as `prune` of the plan; None leaves out nothing."""
    threads: int | None = None
    """Cores of this machine to use (default: all)."""
    ray: str | None = None
    """Address of a Ray cluster whose machines run the pages (default: this machine runs them)."""


@dataclass(frozen=True)
class GraphOptions(Checked):
    """The form of standard ONNX graphs, for engines that do not support everything in the newest one.

    Raises ExportError for values of a wrong type.
    """

    opset: int | None = None
    """Operator set of the graphs, 17 to 27 (default: 24; 27 with linear attention). What an opset lacks is written out
    in older operators; below 21 there is no int4, and 8-bit weights take its place."""
    cache: str | None = None
    """How graphs add tokens to the KV cache: "scatter" writes them in place, "concat" returns past and new ones
    together (default: "scatter" from opset 24 on, else "concat")."""


@dataclass(frozen=True)
class EngineOptions(Checked):
    """The engines of targets that build engines.

    Raises ExportError for values of a wrong type.
    """

    compute_capability: str | None = None
    """Compute capabilities of the GPUs to build for, such as "86,89,120" (default: the target's)."""
    tensorrt_version: str | None = None
    """`tensorrt`: the release that graphs are for, "8.6", "10.3", "10.13" or "10.15" (default: 10.15)."""
    jetpack: str | None = None
    """`tensorrt`: the JetPack that graphs are for, "6" or "7": its oldest TensorRT, see docs/deploying.md."""
    profile: str = PROFILES[0]
    """Inputs to build for: "pages", or "video" for videos too."""
