"""The resize rule is that of transformers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as their_smart_resize

from qvl_runtime.errors import MediaError
from qvl_runtime.resize import smart_resize

side = st.integers(1, 5000)


@given(side, side, st.sampled_from([28, 32]), st.integers(1, 10**6), st.integers(0, 10**7))
def test_smart_resize(height: int, width: int, factor: int, low: int, more: int) -> None:
    bounds = factor, low, low + more
    try:
        theirs = their_smart_resize(height, width, *bounds)
    except ValueError:
        with pytest.raises(MediaError, match="aspect ratio"):
            smart_resize(height, width, *bounds)
    else:
        assert smart_resize(height, width, *bounds) == theirs


@pytest.mark.parametrize(("size", "expected"), [((42, 70), (56, 56)), ((10, 1000), (28, 560))], ids=str)
def test_smart_resize_known_traps(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Half to even, and thin images, for which transformers and qwen-vl-utils differ."""
    theirs = their_smart_resize(*size, min_pixels=3136, max_pixels=12845056)
    assert smart_resize(*size, 28, 3136, 12845056) == theirs
    assert theirs == expected
