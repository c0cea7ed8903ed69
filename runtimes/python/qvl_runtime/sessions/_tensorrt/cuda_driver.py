"""The parts of CUDA that engines need: a stream, device buffers, copies and graphs, through `cuda-python`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...common.extras import CUDA_PYTHON
from ...errors import EngineError, InstallError

LEAST_BYTES = 256
"""Minimum size of a buffer: engines require an address, aligned to this, even for empty tensors."""
NO_MEMORY = "cudaErrorMemoryAllocation"


def runtime() -> Any:
    """Returns `cuda.bindings.runtime`; raises InstallError if it is missing."""
    try:
        from cuda.bindings import runtime as found
    except ImportError as error:
        raise InstallError("cuda-python is not installed", fix=f'pip install "{CUDA_PYTHON}"') from error
    return found


class Gpu:
    """The first GPU. Every call raises EngineError with CUDA's message if it fails."""

    def __init__(self) -> None:
        self._rt = runtime()
        self.compute_capability = self._device()

    def _device(self) -> int:
        """Returns the compute capability of the GPU, 8.6 as 86; raises EngineError if there is no GPU."""
        try:
            if self._call("cudaGetDeviceCount") < 1:
                raise EngineError("no device")
        except EngineError as error:
            raise EngineError(
                f"no CUDA GPU was found: {error.what}", fix="install the NVIDIA driver, or export with --target cpu"
            ) from error
        attribute = self._rt.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, 0)
        return 10 * int(major) + int(
            self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, 0)
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        """Returns the result of a runtime function; raises EngineError for the error code, which comes first."""
        error, *results = getattr(self._rt, name)(*arguments)
        if error != self._rt.cudaError_t.cudaSuccess:
            if error.name == NO_MEMORY:
                raise EngineError("not enough GPU memory", fix="use smaller pages (--max-pixels) or --max-length")
            text = self._rt.cudaGetErrorString(error)[1]
            raise EngineError(f"{name}: {text.decode() if isinstance(text, bytes) else text}")
        return results[0] if results else None


class Cuda(Gpu):
    """One stream of the first GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = int(self._call("cudaStreamCreate"))

    def allocate(self, nbytes: int) -> Buffer:
        """Allocates at least `nbytes` of device memory."""
        size = max(nbytes, LEAST_BYTES)
        return Buffer(self, int(self._call("cudaMalloc", size)), size)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def clear(self, buffer: Buffer) -> None:
        """Queues filling the buffer with zeros."""
        self._call("cudaMemsetAsync", buffer.address, 0, buffer.nbytes, self.stream)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Queues a copy of a contiguous array, which must live until `wait`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, array: np.ndarray, address: int) -> None:
        """Queues a copy into a contiguous array, which is filled after `wait`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def wait(self) -> None:
        """Blocks until all queued work is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Records the work that `work` queues as a CUDA graph, which can be launched any number of times."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        recorded, launchable = False, None
        try:
            work()
            recorded = True
        finally:  # otherwise the stream would keep recording
            graph = self._call("cudaStreamEndCapture", self.stream)
            try:
                launchable = self._call("cudaGraphInstantiate", graph, 0) if recorded else None
            finally:
                self._call("cudaGraphDestroy", graph)
        return launchable

    def launch(self, graph: Any) -> None:
        self._call("cudaGraphLaunch", graph, self.stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        self._call("cudaStreamDestroy", self.stream)


class Buffer:
    """Device memory, freed by `free`."""

    def __init__(self, cuda: Cuda, address: int, nbytes: int) -> None:
        self._cuda, self.address, self.nbytes = cuda, address, nbytes

    def free(self) -> None:
        """Frees the memory; may be called more than once."""
        if self.address:
            self._cuda.free(self.address)
        self.address = self.nbytes = 0
