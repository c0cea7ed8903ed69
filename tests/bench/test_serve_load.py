"""Clients that leave in the middle of answers leave nothing behind: no slot, thread, file or process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving import serving

from .serve_load import Load, children, killed, settled

OPTIONS = ("--parallel", "2")


@pytest.mark.slow
def test_a_server_under_load_holds_what_it_held_before(reference_bundle: Path) -> None:
    with serving(reference_bundle, *OPTIONS) as server:
        Load().run(server, 8, lambda asked: asked < 2)
        before, started = settled(server), children(server.process.pid)
        load = Load()
        load.run(server, 8, lambda asked: asked < 12)
        after = settled(server)
        assert load.errors == []
        assert load.counts["answered"] >= 48 and load.counts["left"] > 24, "those who leave got short answers, if any"
        assert (after.threads, after.files) == (before.threads, before.files)
        assert children(server.process.pid) == started
        assert server.post(max_tokens=2).status_code == 200
        found = killed(reference_bundle, server, OPTIONS)
    assert found["children_left"] == 0 and found["status"] == 200 and found["exit"] == 0
