"""Target `tensorrt_rtx`: engines on a GeForce or RTX GPU; kernels compiled for it are cached for the next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..bundle import sha256
from ..common import user_cache
from ..common.extras import import_failure, install_fix
from ..manifest import MANIFEST, Manifest
from ._tensorrt.cuda_driver import Gpu
from ._tensorrt.engine import MakeContext
from ._tensorrt.session import Library, TrtEngine
from .portable import cache_state

__all__ = ["cache_state", "check", "open"]
LIBRARY = "TensorRT-RTX"


def open(bundle: Path, manifest: Manifest, threads: int | None) -> TrtEngine:
    """Loads the engines; raises InstallError for missing packages, EngineError without a GPU."""
    trt = _library()
    kernels = KernelCache(sha256(bundle / MANIFEST)[:16])
    return RtxEngine(bundle, manifest, Library(trt, LIBRARY, kernels.make_context(trt), record=False), kernels)


def check(bundle: Path, manifest: Manifest) -> None:
    """Raises InstallError for missing packages, EngineError without a GPU."""
    _library()
    Gpu()


def _library() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise import_failure(error, "tensorrt_rtx", LIBRARY, install_fix("tensorrt-rtx")) from error
    return tensorrt_rtx


class RtxEngine(TrtEngine):
    """Saves the compiled kernels when it is closed."""

    def __init__(self, bundle: Path, manifest: Manifest, library: Library, kernels: KernelCache) -> None:
        super().__init__(bundle, manifest, library)
        self._kernels = kernels

    def close(self) -> None:
        """Saves the kernels and frees everything; any later call raises EngineError."""
        try:
            self._kernels.save()
        finally:
            super().close()


class KernelCache:
    """The runtime caches of a bundle's engines, in the user's cache directory: one file per engine."""

    def __init__(self, name: str) -> None:
        self._directory = user_cache.directory("qvl-runtime") / name
        self._caches: dict[str, Any] = {}

    def make_context(self, trt: Any) -> MakeContext:
        """Returns a factory of contexts that share their engine's cache; the library captures them as CUDA graphs."""

        def make(engine: Any, file: str) -> Any:
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            if file not in self._caches:
                self._caches[file] = self._load(config.create_runtime_cache(), file)
            config.set_runtime_cache(self._caches[file])
            return engine.create_execution_context(config)

        return make

    def _load(self, cache: Any, file: str) -> Any:
        known = user_cache.read(self._directory / file)
        if known is not None:
            cache.deserialize(known)
        return cache

    def save(self) -> None:
        """Writes the compiled kernels; if that fails, the next start compiles again."""
        for file, cache in self._caches.items():
            user_cache.keep(self._directory / file, bytes(cache.serialize()))
        self._caches.clear()
