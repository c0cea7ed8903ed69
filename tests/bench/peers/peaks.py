"""The machine's peaks: products of large matrices in GFLOP/s and GOP/s, and memory in GB/s. Run as a program.

    python -m tests.bench.peers.peaks [THREADS]

Products run in ONNX Runtime; of memory the faster of a matrix-vector product and of copying counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

SIDE = 2048
COPY_BYTES = 512 << 20
ROUNDS = 5


def session(operator: str, inputs: dict[str, int], output: int, threads: int) -> ort.InferenceSession:
    """A graph of one operator."""
    values = [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in inputs.items()]
    result = helper.make_tensor_value_info("y", output, [None, None])
    node = helper.make_node(operator, list(inputs), ["y"])
    model = helper.make_model(
        helper.make_graph([node], "peak", values, [result]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fastest(action: Callable[[], Any]) -> float:
    """Seconds of the fastest of some runs, after one that does not count."""
    action()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def float_products(threads: int) -> float:
    """GFLOP/s of float32."""
    product = session("MatMul", {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT}, TensorProto.FLOAT, threads)
    values = {name: np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32) for name in "ab"}
    return 2 * SIDE**3 / fastest(lambda: product.run(None, values)) / 1e9


def byte_products(threads: int) -> float:
    """GOP/s of uint8 with int8."""
    product = session("MatMulInteger", {"a": TensorProto.UINT8, "b": TensorProto.INT8}, TensorProto.INT32, threads)
    draw = np.random.default_rng(0)
    values = {"a": draw.integers(0, 255, (SIDE, SIDE), np.uint8), "b": draw.integers(-64, 64, (SIDE, SIDE), np.int8)}
    return 2 * SIDE**3 / fastest(lambda: product.run(None, values)) / 1e9


def matrix_vector(threads: int) -> float:
    """GB/s that a float32 matrix-vector product reads."""
    columns, rows = 8192, COPY_BYTES // 4 // 8192
    matrix = np.ones((rows, columns), np.float32)  # zeros would all lie on one page
    vector = np.ones(columns, np.float32)
    parts = np.array_split(matrix, threads)
    with ThreadPoolExecutor(threads) as pool:
        return matrix.nbytes / fastest(lambda: list(pool.map(lambda part: part @ vector, parts))) / 1e9


def copying(threads: int) -> float:
    """GB/s read and written by copies."""
    source = np.ones(COPY_BYTES // 8)
    pairs = list(zip(np.array_split(source, threads), np.array_split(source.copy(), threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * source.nbytes / fastest(lambda: list(pool.map(lambda pair: np.copyto(*pair[::-1]), pairs))) / 1e9


def main(threads: int = 2) -> dict[str, float]:
    """All peaks."""
    found = {
        "float32_gflops": float_products(threads),
        "int8_gops": byte_products(threads),
        "memory_gb_per_second": max(matrix_vector(threads), copying(threads)),
    }
    return {name: round(value, 1) for name, value in found.items()}


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:2]))))
