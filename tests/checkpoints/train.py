"""Train the reference checkpoint: a Qwen2.5-VL of 5 M parameters that reads simple pages.

    torchrun --nproc-per-node 2 -m tests.checkpoints.train OUT --minutes 120 [--init WEIGHTS]

Data parallel over single-threaded processes (gloo); resumes from OUT/state.pt. Beside the answers' cross entropy an
auxiliary head, dropped at the end, names the characters in every 28-pixel cell: it teaches the tower glyphs directly.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from calib_data.generator.page import Page
from calib_data.generator.prompts import Question, locate, read, what_is
from calib_data.generator.simple import simple_page
from qvl_export.checkpoint import published_name

from .muon import Muon
from .reader import HIDDEN, Reader

HERE = Path(__file__).parent / "reference"
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
CELL, LINES_A_CELL, SLOTS_A_LINE, CHARACTERS = 28, 2, 5, 96  # class 0 is blank, 1 + ord − 32 a printable
IGNORE = -100


@dataclass(frozen=True)
class Batch:
    images: Tensor
    ids: Tensor
    labels: Tensor
    cells: Tensor
    image_start: int


def cell_targets(page: Page) -> Tensor:
    """[cells, lines · slots] classes of the characters whose centres fall in each cell, line by line."""
    width = page.image.width // CELL
    cells: dict[int, list[list[int]]] = {}
    for line in page.lines:
        found: dict[int, list[int]] = {}
        for span in line:
            for character, (x, y) in zip(span.text, span.centres, strict=True):
                if character != " ":
                    row = min(int(y) // CELL, page.image.height // CELL - 1)
                    found.setdefault(row * width + min(int(x) // CELL, width - 1), []).append(ord(character) - 31)
        for cell, classes in found.items():
            cells.setdefault(cell, []).append(classes[:SLOTS_A_LINE])
    target = torch.zeros(width * (page.image.height // CELL), LINES_A_CELL, SLOTS_A_LINE, dtype=torch.long)
    for cell, rows in cells.items():
        for line, classes in enumerate(rows[:LINES_A_CELL]):
            target[cell, line, : len(classes)] = torch.tensor(classes)
    return target.flatten(1)


class Sampler:
    """Batches of pages of one size; `mix` says how often each level and question is drawn."""

    def __init__(self, seed: int, tokenizer: Tokenizer, tokens: int) -> None:
        self.rng, self.tokenizer, self.tokens = random.Random(seed), tokenizer, tokens
        self.image_id = tokenizer.token_to_id("<|image_pad|>")
        self.pad_id = tokenizer.token_to_id("<|endoftext|>")
        self.prefix = self.encode(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        )
        self.questions = 0.2

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def question(self, page: Page) -> Question:
        draw = self.rng.random()
        if not page.fields or draw > self.questions:
            return read(page)
        key = self.rng.choice(list(page.fields))
        return what_is(page, key) if draw < 0.75 * self.questions else locate(page, key)

    def batches(self) -> Iterator[Batch]:
        pools: dict[tuple[int, int], list[tuple[Page, Question]]] = {}
        while True:
            draw = self.rng.random()
            page = simple_page(self.rng, 0 if draw < 0.02 else 1 if draw < 0.06 else 2)
            pool = pools.setdefault(page.image.size, [])
            pool.append((page, self.question(page)))
            if len(pool) * (page.image.width * page.image.height // CELL**2 + 75) >= self.tokens:
                yield self.collate(pools.pop(page.image.size))

    def collate(self, items: list[tuple[Page, Question]]) -> Batch:
        pixels = torch.from_numpy(np.stack([np.asarray(page.image) for page, _ in items]))
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        count = images.shape[2] * images.shape[3] // CELL**2
        prompts = [
            [*self.prefix, *[self.image_id] * count]
            + self.encode(f"<|vision_end|>{question.prompt}<|im_end|>\n<|im_start|>assistant\n")
            for _, question in items
        ]
        answers = [self.encode(f"{question.answers[0]}<|im_end|>") for _, question in items]
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.full((len(items), longest), self.pad_id)
        labels = torch.full((len(items), longest), IGNORE)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        cells = torch.stack([cell_targets(page) for page, _ in items])
        return Batch(images, ids, labels, cells, len(self.prefix))


class Trainer(nn.Module):
    """The reader with its auxiliary head; returns (answer loss, cell loss, answer top-1)."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.reader = Reader(vocab)
        self.cells = nn.Linear(HIDDEN, LINES_A_CELL * SLOTS_A_LINE * CHARACTERS)

    def forward(self, batch: Batch, read: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Without `read` only the tower runs, at a third of the cost, and the answer loss is zero."""
        if not read:
            return torch.zeros(()), self.cell_loss(self.reader.model["visual"](batch.images), batch), torch.zeros(())
        first = int((batch.labels != IGNORE).any(0).nonzero()[0])
        logits, features = self.reader(batch.images, batch.ids, batch.image_start, first - 1)
        logits, labels = logits[:, :-1].flatten(0, 1), batch.labels[:, first:].flatten()
        known = labels != IGNORE
        answer = F.cross_entropy(logits[known], labels[known])
        top1 = (logits[known].argmax(-1) == labels[known]).float().mean()
        return answer, self.cell_loss(features, batch), top1

    def cell_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of the characters in every cell; empty slots, which are most, weigh a tenth."""
        logits = self.cells(F.rms_norm(features, (HIDDEN,))).view(-1, CHARACTERS)
        target = batch.cells.flatten()
        weight = torch.where(target > 0, 1.0, 0.1)
        return (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()


def tower_batches(done: float) -> int:
    """How many batches only the tower sees for every one that is read in full: glyphs first, reading later."""
    return 4 if done < 0.45 else 1 if done < 0.7 else 0


def learning_rate(done: float, step: int, peak: float) -> float:
    """Linear warm-up over 100 steps, constant, then linear to zero over the last 45 %."""
    return peak * min(1.0, (step + 1) / 100) * min(1.0, max(0.0, (1 - done) / 0.45))


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
    matrices = [p for name, p in named if p.ndim >= 2 and "embed_tokens" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embed_tokens" in name]
    adam = torch.optim.AdamW([*rest, *trainer.cells.parameters()], lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=rate), adam]


def load(trainer: Trainer, both: list[torch.optim.Optimizer], out: Path, init: Path | None) -> tuple[int, float]:
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        trainer.load_state_dict(state["model"])
        for optimizer, saved in zip(both, state.get("optimizers", []), strict=False):
            optimizer.load_state_dict(saved)
        return state["step"], state["seconds"]
    if init:
        published = load_file(init)
        names = trainer.reader.state_dict()
        trainer.reader.load_state_dict({name: published[published_name(name)].float() for name in names})
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=120, help="all training, earlier runs included")
    parser.add_argument("--init", type=Path, help="begin with the weights of a model.safetensors")
    parser.add_argument("--tokens", type=int, default=2000, help="a step and process")
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    trainer = Trainer(-(-tokenizer.get_vocab_size() // 64) * 64)
    both = optimizers(trainer, options.rate)
    options.out.mkdir(parents=True, exist_ok=True)
    step, before = load(trainer, both, options.out, options.init)
    sampler = Sampler(1_000_003 * (rank + 1) + step, tokenizer, options.tokens)
    batches, start, seen, sums = sampler.batches(), time.time() - before, 0, np.zeros(3)
    while True:
        clock = torch.tensor([(time.time() - start) / (options.minutes * 60)])
        dist.broadcast(clock, 0)
        done = float(clock)
        if done >= 1:
            break
        for group in (group for optimizer in both for group in optimizer.param_groups):
            group["lr"] = learning_rate(done, step, options.rate)
        batch = next(batches)
        trainer.zero_grad()
        answer, cell, top1 = trainer(batch)
        (answer + 0.5 * cell).backward()
        for _ in range(tower_batches(done)):
            extra = next(batches)
            trainer(extra, read=False)[1].mul(0.5).backward()
            seen += len(extra.ids)
        average_gradients(trainer)
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
        step, seen, sums = step + 1, seen + len(batch.ids), sums + [answer.item(), cell.item(), top1.item()]
        if rank == 0 and step % 50 == 0:
            answer_mean, cell_mean, top1_mean = sums / 50
            print(
                f"{step} {time.time() - start:.0f}s "
                f"seen {dist.get_world_size() * seen} answer {answer_mean:.3f} cell {cell_mean:.3f} "
                f"top1 {top1_mean:.4f} lr {learning_rate(done, step, options.rate):.1e}",
                flush=True,
            )
            sums = np.zeros(3)
        if rank == 0 and step % 100 == 0:
            save(trainer, both, options.out, step, time.time() - start)
    if rank == 0:
        save(trainer, both, options.out, step, time.time() - start)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
