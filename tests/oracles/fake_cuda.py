"""A GPU of numpy arrays behind the functions of `cuda.bindings.runtime` that are used.

What is queued on the stream happens when it is waited for, new memory holds garbage, and every address is checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import numpy as np

ALIGNMENT = 256
STREAM = 7


class cudaError_t(Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK, INVALID = cudaError_t.cudaSuccess, cudaError_t.cudaErrorInvalidValue
Work = Callable[[], None]


class FakeCuda:
    """The module, with `memory` bytes of one GPU (no GPU if that is zero)."""

    cudaError_t, cudaDeviceAttr, cudaMemcpyKind = cudaError_t, cudaDeviceAttr, cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode

    def __init__(self, capability: int = 86, memory: int = 1 << 30) -> None:
        self.capability, self.memory = capability, memory
        self.buffers: dict[int, np.ndarray] = {}
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None
        self.graphs: list[list[Work]] = []
        self.launched = 0
        self.streams = 0

    def enqueue(self, work: Work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes of a buffer; raises if there are none."""
        buffer = self.buffers[address]
        assert nbytes <= buffer.nbytes, f"{nbytes} of {buffer.nbytes} bytes"
        return buffer[:nbytes]

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (OK, 1) if self.memory else (cudaError_t.cudaErrorNoDevice, None)

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, ...]:
        return OK, error.name.encode()

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:
        assert device == 0
        major = attribute == cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        return OK, self.capability // 10 if major else self.capability % 10

    def cudaStreamCreate(self) -> tuple[Any, ...]:
        self.streams += 1
        return OK, STREAM

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        assert stream == STREAM
        self.streams -= 1
        return (OK,)

    def cudaMalloc(self, nbytes: int) -> tuple[Any, ...]:
        if sum(buffer.nbytes for buffer in self.buffers.values()) + nbytes > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, None
        raw = np.full(nbytes + ALIGNMENT, 0xFF, np.uint8)
        buffer = raw[-raw.ctypes.data % ALIGNMENT :][:nbytes]
        self.buffers[buffer.ctypes.data] = buffer
        return OK, buffer.ctypes.data

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return (OK if self.buffers.pop(address, None) is not None else INVALID,)

    def cudaMemsetAsync(self, address: int, value: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        assert stream == STREAM
        self.enqueue(lambda: self.view(address, nbytes).fill(value))
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[Any, ...]:
        assert stream == STREAM and self.captured is None
        device, host = (to, source) if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else (source, to)
        if device not in self.buffers:
            return (INVALID,)

        def copy() -> None:
            inside = self.view(device, nbytes)
            outside = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(host)) if nbytes else inside
            (inside if device == to else outside)[:] = outside if device == to else inside

        self.enqueue(copy)
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert stream == STREAM and self.captured is None
        done, self.queue = self.queue, []
        for work in done:
            work()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        assert stream == STREAM and not self.queue
        self.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        assert self.captured is not None
        done, self.captured = self.captured, None
        self.graphs.append(done)
        return OK, done

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, ...]:
        return OK, tuple(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        self.graphs = [other for other in self.graphs if other is not graph]
        return (OK,)

    def cudaGraphExecDestroy(self, graph: tuple[Work, ...]) -> tuple[Any, ...]:
        return (OK,)

    def cudaGraphLaunch(self, graph: tuple[Work, ...], stream: int) -> tuple[Any, ...]:
        self.launched += 1
        self.queue += graph
        return (OK,)
