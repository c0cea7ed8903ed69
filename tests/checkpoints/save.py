"""Write the trained reader as the reference checkpoint's weights.

python -m tests.checkpoints.save STATE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from qvl_export.checkpoint import published_name

from .train import HERE


def main(state: Path) -> None:
    """bfloat16 under the published names; the head is tied, the auxiliary head stays behind."""
    trained = torch.load(state, weights_only=True)["model"]
    weights = {
        published_name(name.removeprefix("reader.")): tensor.to(torch.bfloat16).contiguous()
        for name, tensor in trained.items()
        if name.startswith("reader.")
    }
    save_file(weights, HERE / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
