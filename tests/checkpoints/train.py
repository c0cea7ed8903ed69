"""Train a checkpoint of 5 or 6 M parameters that reads simple pages: the reference, or one of its siblings.

    torchrun --nproc-per-node 2 -m tests.checkpoints.train FAMILY OUT --minutes 120 [--init WEIGHTS]

Data parallel over single-threaded processes (gloo); resumes from OUT/state.pt. Beside the answers' cross entropy an
auxiliary head, dropped at the end, names the characters in every cell: it teaches the tower glyphs directly.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from qvl_export.checkpoint.tensor_names import published_name

from .language import HIDDEN
from .muon import Muon
from .pages import IGNORE, LINES_A_CELL, SLOTS_A_LINE, Batch, Sampler
from .reader import FAMILIES, Family, Reader
from .teacher import Teacher
from .transplant import transplant

CHARACTERS = 96
PATIENCE = timedelta(hours=12)
"""For the other process, which may have been stopped for a while."""
SAVED_EVERY = 10
"""Steps."""


class Trainer(nn.Module):
    """The reader with its auxiliary head; returns (answer loss, cell loss, answer top-1)."""

    def __init__(self, family: Family, vocab: int) -> None:
        super().__init__()
        self.reader = Reader(family, vocab)
        self.cells = nn.Linear(HIDDEN, LINES_A_CELL * SLOTS_A_LINE * CHARACTERS)
        self.teacher: Teacher | None = None

    def forward(self, batch: Batch, read: bool = True, only_deepstack: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Without `read` only the tower runs, at a third of the cost, and the answer loss is zero."""
        if not read:
            return torch.zeros(()), self.cell_loss(self.reader.model["visual"](batch.images), batch), torch.zeros(())
        first = int((batch.labels != IGNORE).any(0).nonzero()[0])
        logits, features = self.reader(batch.images, batch.ids, batch.image_start, first - 1, only_deepstack)
        logits, labels = logits[:, :-1].flatten(0, 1), batch.labels[:, first:].flatten()
        known = labels != IGNORE
        answer = F.cross_entropy(logits[known].float(), labels[known])
        top1 = (logits[known].argmax(-1) == labels[known]).float().mean()
        answer = answer + self.teacher.loss(batch, first) if self.teacher else answer
        return answer, self.cell_loss(features, batch), top1

    def cell_loss(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Cross entropy of the characters in every cell; empty slots, which are most, weigh a tenth.

        The head reads the sum of the features for DeepStack where there are any: these are to hold the glyphs.
        """
        glyphs = torch.stack(features[1:] or features).sum(0)
        logits = self.cells(F.rms_norm(glyphs, (HIDDEN,))).view(-1, CHARACTERS)
        target = batch.cells.flatten()
        weight = torch.where(target > 0, 1.0, 0.1)
        return (F.cross_entropy(logits.float(), target, reduction="none") * weight).sum() / weight.sum()


def tower_batches(done: float) -> int:
    """How many batches only the tower sees for every one that is read in full: glyphs first, reading later."""
    return 4 if done < 0.45 else 3 if done < 0.75 else 1


def learning_rate(done: float, step: int, peak: float, warm_up: int) -> float:
    """Linear warm-up over `warm_up` steps, constant, then linear to zero over the last 45 %."""
    return peak * min(1.0, (step + 1) / warm_up) * min(1.0, max(0.0, (1 - done) / 0.45))


def average_gradients(model: nn.Module) -> None:
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for p in model.parameters():
        if p.grad is not None:
            p.grad.copy_(flat[start : start + p.numel()].view_as(p))
            start += p.numel()


def optimizers(trainer: Trainer, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the network, AdamW for embeddings, gains, biases and the auxiliary head."""
    named = list(trainer.reader.named_parameters())
    tables = ("embed_tokens", "pos_embed", "conv1d")
    matrices = [p for name, p in named if p.ndim >= 2 and not any(table in name for table in tables)]
    rest = [p for name, p in named if p.ndim < 2 or any(table in name for table in tables)]
    adam = torch.optim.AdamW([*rest, *trainer.cells.parameters()], lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=rate), adam]


def load(trainer: Trainer, both: list[torch.optim.Optimizer], out: Path, init: Path | None) -> tuple[int, float]:
    """Steps and seconds of earlier runs; `init` gives all tensors that have the same name and shape.

    A hybrid reader takes more of reference_qwen3 (`transplant`).
    """
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        trainer.load_state_dict(state["model"])
        for optimizer, saved in zip(both, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return state["step"], state["seconds"]
    if init and trainer.reader.hybrid and init.parent == FAMILIES["qwen3_vl"].directory:
        trainer.reader.load_state_dict(transplant(load_file(init), trainer.reader.state_dict()))
    elif init:
        published, own = {published_name(name): t for name, t in load_file(init).items()}, trainer.reader.state_dict()
        found = {name: published.get(published_name(name)) for name in own}
        own |= {name: t.float() for name, t in found.items() if t is not None and t.shape == own[name].shape}
        trainer.reader.load_state_dict(own)
    return 0, 0.0


def save(trainer: Trainer, both: list[torch.optim.Optimizer], out: Path, step: int, seconds: float) -> None:
    state = {
        "model": trainer.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in both],
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, out / "state.tmp")
    os.replace(out / "state.tmp", out / "state.pt")


@dataclass
class Run:
    """One process's side of the training; seconds are those it computed."""

    trainer: Trainer
    both: list[torch.optim.Optimizer]
    batches: Iterator[Batch]
    bfloat16: bool
    step: int
    seconds_before: float
    seen: int = 0

    @property
    def reader(self) -> Reader:
        return self.trainer.reader

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.process_time()

    def backward(self, read: bool, only_deepstack: bool = False) -> np.ndarray:
        """The gradients of one batch added; its answer loss, cell loss and top-1."""
        batch = next(self.batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            answer, cell, top1 = self.trainer(batch, read, only_deepstack)
        (answer + 0.5 * cell).backward()
        self.seen += len(batch.ids)
        return np.array([answer.item(), cell.item(), top1.item()])

    def update(self, tower: int, read: bool, rate: float) -> np.ndarray:
        """One step of both optimizers after `tower` batches for the tower alone and perhaps one that is read."""
        for group in (group for optimizer in self.both for group in optimizer.param_groups):
            group["lr"] = rate
        self.trainer.zero_grad()
        figures = self.backward(read, self.reader.deepstack and self.step % 2 == 0)
        for _ in range(tower):
            self.backward(read=False)
        average_gradients(self.trainer)
        nn.utils.clip_grad_norm_(self.trainer.parameters(), 1.0)
        for optimizer in self.both:
            optimizer.step()
        self.reader.fade()
        self.step += 1
        return figures


def train(run: Run, options: argparse.Namespace) -> None:
    """Until process 0 has computed `minutes`; for the share `glyphs` of them the tower learns alone.

    A teacher leaves after step `taught`.
    """
    first, sums = dist.get_rank() == 0, []
    while True:
        clock = torch.tensor([run.seconds / 60 / options.minutes])
        dist.broadcast(clock, 0)
        done = float(clock)
        if done >= 1:
            break
        now = learning_rate(done, run.step, options.rate, options.warm_up)
        run.trainer.teacher = run.trainer.teacher if run.step < options.taught else None
        sums.append(run.update(min(tower_batches(done), options.tower_batches), done >= options.glyphs, now))
        if first and run.step % SAVED_EVERY == 0:
            answer, cell, top1 = np.mean(sums[-SAVED_EVERY:], axis=0)
            print(
                f"{run.step} {run.seconds:.0f}s seen {dist.get_world_size() * run.seen} answer {answer:.3f} "
                f"cell {cell:.3f} top1 {top1:.4f} lr {now:.1e} {time.strftime('%H:%M:%S')}",
                flush=True,
            )
            save(run.trainer, run.both, options.out, run.step, run.seconds)
    if first:
        save(run.trainer, run.both, options.out, run.step, run.seconds)


def trained(family: Family, other: Reader) -> Reader:
    """A committed checkpoint with nested names, with the vocabulary of another."""
    reader = Reader(family, other.model["language_model"].embed_tokens.num_embeddings)
    weights = load_file(family.directory / "model.safetensors")
    reader.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=120, help="computed by one process, earlier runs included")
    parser.add_argument(
        "--init",
        type=lambda text: Path(text).resolve(),
        help="begin with the weights of a model.safetensors where they fit",
    )
    parser.add_argument("--tokens", type=int, default=2000, help="a step and process")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warm-up", type=int, default=100, help="steps")
    parser.add_argument("--glyphs", type=float, default=0, help="share of the time in which nothing is read yet")
    parser.add_argument("--tower-batches", type=int, default=4, help="at most, for every one that is read")
    parser.add_argument("--taught", type=int, default=0, help="steps in which reference_qwen3 teaches a hybrid model")
    parser.add_argument("--bfloat16", action="store_true", help="products in bfloat16, for CPUs with AMX")
    options = parser.parse_args()
    dist.init_process_group("gloo", timeout=PATIENCE)
    rank, family = dist.get_rank(), FAMILIES[options.family]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sampler = Sampler(family, 0, options.tokens)
    trainer = Trainer(family, -(-sampler.tokenizer.get_vocab_size() // 64) * 64)
    both = optimizers(trainer, options.rate)
    options.out.mkdir(parents=True, exist_ok=True)
    step, seconds = load(trainer, both, options.out, options.init)
    sampler.rng.seed(1_000_003 * (rank + 1) + step)
    run = Run(trainer, both, sampler.batches(), options.bfloat16, step, seconds)
    if options.taught > step:
        trainer.teacher = Teacher(trained(FAMILIES["qwen3_vl"], trainer.reader), trainer.reader)
    train(run, options)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
