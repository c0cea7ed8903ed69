"""A trained Qwen3-VL reader as the teacher of a hybrid one's hidden states, until its layers have found their parts.

Hidden states are compared where the teacher attends to the page (before the full attention) and at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pages import Batch
from .reader import Reader

BEFORE_ATTENTION = {"teacher": 2, "student": 3}


class Teacher:
    """Watches both language models; `loss` compares what the student's last pass left with the teacher's states."""

    def __init__(self, teacher: Reader, student: Reader) -> None:
        self.reader = teacher.eval().requires_grad_(False)
        self.seen: dict[tuple[str, str], Tensor] = {}
        for who, reader in (("teacher", teacher), ("student", student)):
            language = reader.model["language_model"]
            language.layers[BEFORE_ATTENTION[who]].register_forward_pre_hook(self._remember(who, "before"))
            language.norm.register_forward_pre_hook(self._remember(who, "after"))

    def _remember(self, who: str, where: str):  # type: ignore[no-untyped-def]  # a hook
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[who, where] = inputs[0]

        return hook

    def loss(self, batch: Batch, first: int) -> Tensor:
        """Mean squared errors, each relative to the teacher's mean square."""
        with torch.no_grad():
            self.reader(batch.images, batch.ids, batch.image_start, first - 1)
        pairs = [(self.seen["student", where], self.seen["teacher", where]) for where in ("before", "after")]
        return torch.stack(
            [(s.float() - t.float()).square().mean() / t.float().square().mean() for s, t in pairs]
        ).sum()
