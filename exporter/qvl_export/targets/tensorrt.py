"""Target `tensorrt`: TensorRT 10.15 or later, for Jetson and servers; engines are built on the GPU they run on.

The graphs are the same as for `tensorrt_rtx`. If this machine has TensorRT and a GPU, the engines are built here;
otherwise the bundle gets a script that builds them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from qvl_runtime.common import user_cache
from qvl_runtime.errors import EngineError, InstallError
from qvl_runtime.sessions._tensorrt.cuda_driver import Cuda

from ..engines import BuildOptions, Finisher, check
from ..errors import ExportError
from . import tensorrt_rtx
from .portable import PortableTarget

LIBRARY = "TensorRT"
LEAST_VERSION = (10, 15)
"""The first version whose parser supports Attention, RotaryEmbedding and TensorScatter."""


def lower(precision: str, accuracy_level: int) -> PortableTarget:
    """Returns the ops of `tensorrt_rtx`; raises ExportError for fp32."""
    return tensorrt_rtx.lower(precision, accuracy_level)


def finisher(options: BuildOptions) -> Finisher:
    """Returns a finisher that builds engines for this machine's GPU, or writes a script for another machine."""
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
    """The TensorRT module, or None if it is not installed; raises ExportError if it is too old."""
    try:
        import tensorrt
    except ImportError:
        return None
    if tuple(map(int, tensorrt.__version__.split(".")[:2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise ExportError(f"{LIBRARY} {tensorrt.__version__} is too old", fix=f"install {least} or later")
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
