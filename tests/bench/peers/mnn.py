"""MNN, converted by llmexport: int4 and int8 weights."""

from __future__ import annotations

from pathlib import Path

from .peer import Peer
from .venvs import TORCH, Venv, run

VENV = Venv("mnn", (TORCH, (*TORCH, "MNN", "llmexport", "pillow")))
BITS = {"int8": "8", "int4": "4"}


def prepare(peer: Peer, checkpoint: Path, out: Path, python: Path) -> None:
    """The converter of MNN's author."""
    with out.with_suffix(".log").open("w") as log:
        run(
            [
                *(str(python), str(python.with_name("llmexport")), "--path", str(checkpoint), "--dst_path", str(out)),
                *("--export", "mnn", "--quant_bit", BITS[peer.precision]),
            ],
            log,
        )


PEERS = [Peer("MNN", precision, "run_mnn.py", prepare, VENV, model=f"mnn-{precision}") for precision in BITS]
