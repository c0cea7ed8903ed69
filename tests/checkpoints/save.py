"""Write a trained reader as its checkpoint's weights.

python -m tests.checkpoints.save FAMILY STATE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from qvl_export.checkpoint.tensor_names import published_name

from .reader import FAMILIES


def main(family: str, state: Path) -> None:
    """bfloat16 under the published names; the head is tied, the auxiliary head stays behind."""
    trained, kind = torch.load(state, weights_only=True)["model"], FAMILIES[family]
    own = {name.removeprefix("reader."): tensor for name, tensor in trained.items() if name.startswith("reader.")}
    weights = {
        name if kind.nested_names else published_name(name): tensor.to(torch.bfloat16).contiguous()
        for name, tensor in own.items()
    }
    save_file(weights, kind.directory / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
