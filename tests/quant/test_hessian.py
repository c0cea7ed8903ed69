"""The sum of products of tokens: equal to the plain product, with the same bits on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from qvl_export.quant.gptq import hessian as gram


def test_a_gram_matrix_is_the_product() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 700)).astype(np.float32)
    total, threads = gram.zeros(700), torch.get_num_threads()
    gram.add(total, x)
    gram.add(total, x[:20])
    assert torch.get_num_threads() == threads
    expected = x.T @ x + x[:20].T @ x[:20]
    np.testing.assert_allclose(gram.full_matrix(total, 700), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_a_gram_matrix_has_the_same_bits_on_any_number_of_threads() -> None:
    """In processes of their own: OpenMP reads how many threads it has once."""
    code = (
        "import hashlib, numpy, torch; from qvl_export.quant.gptq import hessian as gram; total = gram.zeros(1600);"
        "gram.add(total, numpy.random.default_rng(0).standard_normal((1500, 1600)).astype(numpy.float32));"
        "print(torch.get_num_threads(), hashlib.sha256(total).hexdigest())"
    )
    found = {}
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        seen, found[threads] = done.stdout.split()
        assert seen == threads
    assert found["1"] == found["2"]
