"""Target `tensorrt`: TensorRT for Jetson and servers; engines are built on the GPU they run on.

Graphs are standard ONNX with a cache of fixed size, of the operators that a release of TensorRT lists: 10.15 unless an
option names another. Engines are built here if this machine has TensorRT and a GPU and no release is named; otherwise
the bundle gets a script that builds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.common import user_cache
from qvl_runtime.errors import EngineError, InstallError
from qvl_runtime.sessions._tensorrt.cuda_driver import Cuda

from ..engines import BuildOptions, Finisher, check
from ..engines.tensorrt_releases import RELEASES, Release, find
from ..errors import ExportError
from . import DEFAULT_FORM, WEIGHT_TYPES, GraphForm, WindowInputs, _primitives, tensorrt_rtx
from ._standard import window_mask
from .portable import SINCE, PortableTarget

LIBRARY = "TensorRT"
NEWEST = RELEASES["10.15"]
"""The first release whose parser has Attention, RotaryEmbedding and TensorScatter: what graphs are for by default."""


def lower(precision: str, accuracy_level: int, form: GraphForm = DEFAULT_FORM) -> TensorRtTarget:
    """Returns the ops of a release; raises ExportError for fp32 where attention is one operator."""
    release = NEWEST if form.tensorrt is None else find(form.tensorrt)
    if precision == "fp32" and "Attention" in release.operators:
        raise tensorrt_rtx.NO_FP32
    lacking = SINCE.keys() - release.operators
    return TensorRtTarget(
        WEIGHT_TYPES[precision],
        opset=release.opset,
        lacking=frozenset(lacking),
        static_cache=True,
        int4_opset=release.int4_opset,
    )


@dataclass(frozen=True)
class TensorRtTarget(PortableTarget):
    """Standard ONNX as TensorRT's parser lists it; `int4_opset` is the opset of graphs with 4-bit weights."""

    int4_opset: int | None = None

    def for_int4(self) -> Self:
        return self if self.int4_opset is None else replace(self, opset=self.int4_opset)

    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        """TensorRT's parser takes attention with four axes only."""
        if not self.has("Attention"):
            return super().attend(op, q, k, v, num_heads, windows)
        q, k, v = (_primitives.by_head(op, x, num_heads) for x in (q, k, v))
        y = op.Attention(q, k, v, *([] if windows is None else [window_mask(op, windows)]))
        return _primitives.by_token(op, y)


def finisher(options: BuildOptions) -> Finisher:
    """Returns a finisher that builds engines for this machine's GPU, or writes a script for another machine."""
    from ..engines import building, script

    check(options, LIBRARY)
    if options.capabilities:
        raise ExportError(
            f"{LIBRARY} builds for the GPU it runs on",
            fix="leave --compute-capability out, or use --target tensorrt-rtx",
        )
    release = NEWEST if options.tensorrt is None else find(options.tensorrt)
    if options.int4 and release.int4_opset is None:
        raise no_int4(release)
    if options.tensorrt is not None:
        return partial(script.finish, kind=options.profile, release=release)
    trt, capability = _library(), _capability()
    if trt is None or capability is None:
        return partial(script.finish, kind=options.profile, release=release)
    cache = TimingCache(f"tensorrt-{trt.__version__}-sm{capability}.timing")
    library = building.Library(trt, LIBRARY, (capability,), cache.use, cache.save)
    return partial(building.finish, library=library, kind=options.profile)


def no_int4(release: Release) -> ExportError:
    """The error for 4-bit weights on a release that has none."""
    later = next(each.name for each in RELEASES.values() if each.int4_opset)
    return ExportError(
        f"{LIBRARY} {release.name} has no int4 weights",
        fix=f"use --precision int8, or --tensorrt-version {later} (JetPack 6.1 or later)",
    )


def _library() -> Any:
    """The TensorRT module, or None if it is not installed; raises ExportError if it cannot read the newest graphs."""
    try:
        import tensorrt
    except ImportError:
        return None
    if tuple(map(int, tensorrt.__version__.split(".")[:2])) < NEWEST.version:
        fix = f"install {NEWEST.name} or later, or name the release with --tensorrt-version"
        raise ExportError(f"{LIBRARY} {tensorrt.__version__} is too old", fix=fix)
    return tensorrt


def _capability() -> int | None:
    """The compute capability of this machine's GPU; None if there is no GPU or no driver."""
    try:
        cuda = Cuda()
    except (EngineError, InstallError):
        return None
    cuda.close()
    return cuda.compute_capability


class TimingCache:
    """Measured kernel times, kept in the user's cache directory for the next build."""

    def __init__(self, name: str) -> None:
        self._path = user_cache.directory("qvl-export") / name

    def use(self, config: Any) -> None:
        """Loads the saved times into a builder configuration."""
        config.set_timing_cache(config.create_timing_cache(user_cache.read(self._path) or b""), False)

    def save(self, config: Any) -> None:
        """Saves the times that a build measured; if that fails, the next build measures again."""
        user_cache.keep(self._path, bytes(config.get_timing_cache().serialize()))
