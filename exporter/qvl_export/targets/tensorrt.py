"""Target `tensorrt`: TensorRT 10.15 or later, for Jetson and servers, whose engines are built on the GPU they run on.

The graphs are those of `tensorrt_rtx`. Where this machine has TensorRT and a GPU the engines are built here, elsewhere
the bundle gets a script that builds them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from qvl_runtime.common import user_cache
from qvl_runtime.errors import EngineError, InstallError
from qvl_runtime.sessions._tensorrt.cuda_driver import Cuda

from ..engines import EngineOptions, Finisher, check
from ..errors import ExportError
from . import tensorrt_rtx
from .portable import PortableTarget

LIBRARY = "TensorRT"
LEAST_VERSION = (10, 15)
"""The first whose parser knows Attention, RotaryEmbedding and TensorScatter."""


def lower(precision: str, accuracy_level: int) -> PortableTarget:
    """As for TensorRT-RTX; raises ExportError for fp32."""
    return tensorrt_rtx.lower(precision, accuracy_level)


def finisher(options: EngineOptions) -> Finisher:
    """Builds the engines for this machine's GPU, or writes the script that does so elsewhere."""
    from ..engines import building, script

    check(options, LIBRARY)
    if options.capabilities:
        raise ExportError(
            f"{LIBRARY} builds for the GPU it runs on",
            fix="leave --compute-capability out, or use --target tensorrt-rtx",
        )
    trt, capability = _library(), _capability()
    if trt is None or capability is None:
        return partial(script.finish, kind=options.profile)
    cache = TimingCache(f"tensorrt-{trt.__version__}-sm{capability}.timing")
    library = building.Library(trt, LIBRARY, (capability,), cache.use, cache.save)
    return partial(building.finish, library=library, kind=options.profile)


def _library() -> Any:
    """TensorRT, None where it is not installed; raises ExportError where it is too old."""
    try:
        import tensorrt
    except ImportError:
        return None
    if tuple(map(int, tensorrt.__version__.split(".")[:2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise ExportError(f"{LIBRARY} {tensorrt.__version__} is too old", fix=f"install {least} or later")
    return tensorrt


def _capability() -> int | None:
    """The compute capability of this machine's GPU, None where there is none or nothing to ask for it with."""
    try:
        cuda = Cuda()
    except (EngineError, InstallError):
        return None
    cuda.close()
    return cuda.compute_capability


class TimingCache:
    """What kernels took, measured once and kept for the next build in the user's cache directory."""

    def __init__(self, name: str) -> None:
        self._path = user_cache.directory("qvl-export") / name

    def use(self, config: Any) -> None:
        """Give a builder configuration what is known."""
        config.set_timing_cache(config.create_timing_cache(user_cache.read(self._path) or b""), False)

    def save(self, config: Any) -> None:
        """Keep what a build has measured; where that cannot be, the next one measures again."""
        user_cache.keep(self._path, bytes(config.get_timing_cache().serialize()))
