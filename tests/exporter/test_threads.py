"""The limit of threads holds within its block."""

from __future__ import annotations

import pytest
import torch

from qvl_export.common.threads import limited_threads, thread_limit


def test_the_limit_ends_with_the_block() -> None:
    before = torch.get_num_threads()
    assert thread_limit() is None
    with limited_threads(3):
        assert (thread_limit(), torch.get_num_threads()) == (3, 3)
        with limited_threads(2):
            assert (thread_limit(), torch.get_num_threads()) == (2, 2)
        assert (thread_limit(), torch.get_num_threads()) == (3, 3)
    assert (thread_limit(), torch.get_num_threads()) == (None, before)


def test_no_limit_changes_nothing() -> None:
    before = torch.get_num_threads()
    with limited_threads(None):
        assert (thread_limit(), torch.get_num_threads()) == (None, before)


def test_an_error_ends_it_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), limited_threads(3):
        raise KeyError
    assert (thread_limit(), torch.get_num_threads()) == (None, before)
