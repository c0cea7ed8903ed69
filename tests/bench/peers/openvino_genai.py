"""OpenVINO GenAI on what optimum-intel exports: int8 and int4 weights, the tower's in int8 (its default)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TextIO

from .peer import Peer
from .venvs import TORCH, Venv, run


def without_foreign_torchvision(_: Path, python: Path, log: TextIO) -> None:
    """Removes a torchvision that was built for another PyTorch: transformers imports it where it is installed."""
    if subprocess.run([str(python), "-c", "import torchvision"], stdout=log, stderr=log).returncode:
        run([str(python), "-m", "pip", "uninstall", "--yes", "torchvision"], log)


VENV = Venv(
    "openvino",
    ((*TORCH, "transformers<5", "openvino-genai", "optimum-intel[openvino]"),),
    finish=without_foreign_torchvision,
)


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
