"""MNN, converted by llmexport: int4 and int8 weights."""

from __future__ import annotations

from pathlib import Path

from .peer import Peer
from .venvs import TORCH, Venv, run

VENV = Venv("mnn", (TORCH, (*TORCH, "transformers<5", "MNN", "llmexport", "pillow")))
BITS = {"int8": "8", "int4": "4"}


def prepare(peer: Peer, checkpoint: Path, out: Path, python: Path) -> None:
    """The converter of MNN's author, as a program: as a module it does not find its own package `utils`."""
    script = next(python.parents[1].glob("lib/python*/site-packages/llmexport/llmexport.py"))
    with out.with_suffix(".log").open("w") as log:
        run(
            [
                *(str(python), str(script), "--path", str(checkpoint), "--dst_path", str(out)),
                *("--export", "mnn", "--quant_bit", BITS[peer.precision]),
            ],
            log,
        )


PEERS = [Peer("MNN", precision, "run_mnn.py", prepare, VENV, model=f"mnn-{precision}") for precision in BITS]
