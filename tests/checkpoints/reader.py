"""The networks of the trained checkpoints: a Qwen2.5-VL, a Qwen3-VL and a Qwen3.5 over batches of pages of one size.

Parameters carry the names of transformers, so that a state dict moves to and from its models as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .hybrid import HybridLanguageModel
from .language import LanguageModel
from .towers import MERGE, DeepStackTower, PlainTower, WindowedTower

HERE = Path(__file__).parent
FADE = 0.02
"""Of the merger's last matrix, a step."""


@dataclass(frozen=True)
class Family:
    """`directory` holds the checkpoint; `axes` says for each rotary frequency whether time, row or column turns it.

    `nested_names` says that the hub has `model.language_model.…` and `model.visual.…`, as this network does; `hybrid`,
    that most layers of the language model are linear attention.
    """

    directory: Path
    tower: type[WindowedTower] | type[PlainTower]
    axes: tuple[int, ...]
    qk_norm: bool
    relative_boxes: bool
    nested_names: bool
    hybrid: bool = False


FAMILIES: Mapping[str, Family] = {
    "qwen2_5_vl": Family(HERE / "reference", WindowedTower, (0,) * 4 + (1,) * 6 + (2,) * 6, False, False, False),
    "qwen3_vl": Family(HERE / "reference_qwen3", DeepStackTower, (0, 1, 2) * 5 + (0,), True, True, True),
    "qwen3_5": Family(HERE / "reference_qwen3_5", PlainTower, (0, 1, 2) * 5 + (0,), True, True, True, hybrid=True),
}


class Reader(nn.Module):
    """`model.visual.…` and `model.language_model.…`."""

    def __init__(self, family: Family, vocab: int) -> None:
        super().__init__()
        self.factor, self.hybrid = family.tower.patch * MERGE, family.hybrid
        axes = torch.tensor(family.axes)
        language = HybridLanguageModel(vocab, axes) if family.hybrid else LanguageModel(vocab, axes, family.qk_norm)
        self.model = nn.ModuleDict({"visual": family.tower(), "language_model": language})

    def forward(
        self, images: Tensor, ids: Tensor, image_start: int, logits_from: int, only_deepstack: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """images [B, 3, H, W], ids [B, T] with image tokens at `image_start` → (logits [B, T', V], features).

        With `only_deepstack` the language model gets zeros in place of the first features.
        """
        features = self.model["visual"](images)
        grid = images.shape[2] // self.factor, images.shape[3] // self.factor
        seen = [torch.zeros_like(features[0]), *features[1:]] if only_deepstack else features
        return self.model["language_model"](ids, seen, grid, image_start, logits_from), features

    @property
    def deepstack(self) -> bool:
        """Whether there are features beside the first."""
        return bool(self.model["visual"].deepstack_blocks)

    @torch.no_grad()
    def fade(self) -> None:
        """Make the first features smaller if there is DeepStack, so that a page must be read from the others."""
        if self.deepstack:
            self.model["visual"].merger.linear_fc2.weight.mul_(1 - FADE)
