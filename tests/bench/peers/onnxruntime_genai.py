"""ONNX Runtime GenAI on the directories that `export --layout genai` writes (docs/interop.md)."""

from __future__ import annotations

from pathlib import Path

from tests.plans import export_plan

from ..random_bundle import export_random
from .peer import Peer
from .venvs import Venv

VENV = Venv("onnxruntime-genai", (("onnxruntime-genai==0.18.0", "onnxruntime==1.32.0"),))


def prepare(peer: Peer, checkpoint: Path, out: Path, _: Path) -> None:
    """Our graphs in the layout of that runtime, of random codes."""
    export_random(export_plan(checkpoint, out, precision=peer.precision, layout="genai"))


PEERS = [
    Peer("ONNX Runtime GenAI, our graphs", precision, "run_ortgenai.py", prepare, VENV, model=f"ortgenai-{precision}")
    for precision in ("int8", "int4", "fp16")
]
