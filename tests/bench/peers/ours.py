"""This project at every precision, each without pruning and with it on a clean page and on a scan."""

from __future__ import annotations

from pathlib import Path

from tests.plans import export_plan

from ..random_bundle import export_random
from .peer import Peer

RUNTIME = "qvl-runtime"
PRECISIONS = ("int8", "int4", "hybrid", "fp16")
OPENVINO = f"{RUNTIME} on OpenVINO"
"""The same with target `openvino`."""
PRUNED = "scan"
"""The rule that `--prune` without a value takes."""


def prepare(peer: Peer, checkpoint: Path, out: Path, _: Path) -> None:
    """A bundle of random codes: the graphs and formats of a calibrated one."""
    target = "openvino" if peer.runtime == OPENVINO else "cpu"
    export_random(export_plan(checkpoint, out, precision=peer.precision, target=target))


def _peer(precision: str, prune: str | None = None, page: str = "scan") -> Peer:
    options = {"prune": prune} if prune else {}
    model = f"{RUNTIME}-{precision}"
    return Peer(RUNTIME, precision, "run_ours.py", prepare, options=options, model=model, page=page, ours=True)


PEERS = [
    *(_peer(precision) for precision in PRECISIONS),
    *(_peer(precision, PRUNED, page) for precision in PRECISIONS for page in ("clean", "scan")),
    *(
        Peer(OPENVINO, precision, "run_ours.py", prepare, model=f"{RUNTIME}-openvino-{precision}", ours=True)
        for precision in PRECISIONS
    ),
]
