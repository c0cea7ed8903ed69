"""Target `tensorrt_rtx`: engine files for GeForce and RTX GPUs, built on any machine, GPU or not.

The graphs are the same as for `portable`, with a cache of fixed size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..common.extras import install_fix
from ..engines import BuildOptions, Finisher, check
from ..errors import ExportError
from . import WEIGHT_TYPES
from .portable import PortableTarget

LIBRARY = "TensorRT-RTX"
DEFAULT = (86, 89, 120)
"""Compute capabilities of Ampere, Ada and Blackwell GPUs in PCs."""
LEAST_INT4 = 80
NO_FP32 = ExportError("TensorRT has no attention in fp32", fix="export with --precision fp16, int8 or int4")
SPECIAL = ("CURRENT", "NONE")


def lower(precision: str, accuracy_level: int) -> PortableTarget:
    """Returns the ops with float weights in `fp16`; raises ExportError for fp32."""
    if precision == "fp32":
        raise NO_FP32
    return PortableTarget(WEIGHT_TYPES[precision], static_cache=True)


def finisher(options: BuildOptions) -> Finisher:
    """Returns a finisher that builds the engines.

    Raises ExportError if the library is missing, or for GPUs that it or the weights do not support.
    """
    from ..engines import building

    check(options, LIBRARY)
    trt = _library()
    chosen = options.capabilities or DEFAULT
    _check(trt, chosen, options)
    library = building.Library(trt, LIBRARY, chosen, partial(_configure, trt, chosen))
    building.check(library)
    return partial(building.finish, library=library, kind=options.profile)


def _library() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise ExportError(f"{LIBRARY} is not installed", fix=install_fix("tensorrt-rtx")) from error
    return tensorrt_rtx


def _check(trt: Any, chosen: tuple[int, ...], options: BuildOptions) -> None:
    known = [name[2:] for name in trt.ComputeCapability.__members__ if name not in SPECIAL]
    strange = [str(number) for number in chosen if str(number) not in known]
    if strange:
        raise ExportError(
            f"{LIBRARY} {trt.__version__} does not build for compute capability {', '.join(strange)}",
            fix=f"it does for {', '.join(sorted(known, key=int))}; use --target tensorrt for Jetson and servers",
        )
    old = [str(number) for number in chosen if number < LEAST_INT4]
    if old and options.int4:
        raise ExportError(
            f"int4 weights need compute capability {LEAST_INT4} or newer, not {', '.join(old)}",
            fix="leave it out of --compute-capability, or use --precision int8",
        )


def _configure(trt: Any, chosen: tuple[int, ...], config: Any) -> None:
    config.num_compute_capabilities = len(chosen)
    for index, number in enumerate(chosen):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), index):
            raise ExportError(f"{LIBRARY} does not build for compute capability {number} together with the others")
