"""transformers on PyTorch, in bfloat16 and float32."""

from __future__ import annotations

from pathlib import Path

from .peer import Peer
from .venvs import TORCH, Venv

VENV = Venv("transformers", (TORCH, (*TORCH, "transformers==5.24.0", "accelerate", "pillow")))


def prepare(peer: Peer, checkpoint: Path, out: Path, _: Path) -> None:
    """The checkpoint is what it reads."""
    out.symlink_to(checkpoint.absolute())


PEERS = [
    Peer("transformers", name, "run_transformers.py", prepare, VENV, {"dtype": dtype}, "transformers")
    for name, dtype in (("bf16", "bfloat16"), ("fp32", "float32"))
]
