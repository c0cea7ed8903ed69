"""The pool that runs jobs."""

from __future__ import annotations

from qvl_export.jobs.open_pool import check_pool, open_pool
from qvl_export.jobs.pool import ThisMachine


def test_without_a_cluster_jobs_run_on_this_machine() -> None:
    check_pool(None)
    with open_pool(None) as pool:
        assert isinstance(pool, ThisMachine)
