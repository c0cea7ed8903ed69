"""OpenVINO GenAI on what optimum-intel exports: int8 and int4 weights, the tower's in int8 (its default)."""

from __future__ import annotations

from pathlib import Path

from .peer import Peer
from .venvs import TORCH, Venv, run

VENV = Venv("openvino", ((*TORCH, "transformers<5", "openvino-genai", "optimum-intel[openvino]"),))


def prepare(peer: Peer, checkpoint: Path, out: Path, python: Path) -> None:
    """Its command-line export; weights only, so that nothing is calibrated."""
    with out.with_suffix(".log").open("w") as log:
        run(
            [
                *(str(python), str(python.with_name("optimum-cli")), "export", "openvino", "--model", str(checkpoint)),
                *("--task", "image-text-to-text", "--weight-format", peer.precision, str(out)),
            ],
            log,
        )


PEERS = [
    Peer("OpenVINO GenAI", precision, "run_openvino.py", prepare, VENV, model=f"openvino-{precision}")
    for precision in ("int8", "int4")
]
