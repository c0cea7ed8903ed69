"""Calibration samples: pages with a prompt and an answer, as the first decoder layer sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.errors import QvlError
from qvl_runtime.manifest import Manifest
from qvl_runtime.preprocess import patchify
from qvl_runtime.prompt import Placed, Prompt, build_prompt

from ..errors import ExportError
from ..safetensors_file import StoredTensor

if TYPE_CHECKING:
    from qvl_runtime.sessions.cpu import CpuVision

LABELS = "labels.jsonl"


class Label(msgspec.Struct, forbid_unknown_fields=False):
    """A line of `labels.jsonl`."""

    image: str
    prompt: str
    answers: list[str]


@dataclass(frozen=True)
class Sample:
    """One prompt and answer: `hidden` [1, S, H] into the first layer, `positions` [3, S]."""

    hidden: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]


def read_labels(directory: Path, limit: int) -> list[Label]:
    """Up to `limit` lines of a set, spread evenly over it.

    Raises ExportError naming file and line for anything malformed.
    """
    path = directory / LABELS
    if not path.is_file():
        raise ExportError(f"has no {LABELS}", where=directory, fix="make a set with `python -m calib_data.generator`")
    labels = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            label = msgspec.json.decode(line, type=Label)
        except msgspec.MsgspecError as error:
            raise ExportError(f"is malformed: {error}", where=f"{path}:{number}") from error
        if Path(label.image).is_absolute() or ".." in Path(label.image).parts or not label.answers:
            raise ExportError("needs an image inside the set and an answer", where=f"{path}:{number}")
        labels.append(label)
    if not labels:
        raise ExportError("is empty", where=path)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(limit, len(labels))).round().astype(int))
    return [labels[index] for index in chosen]


@dataclass(frozen=True)
class Sampler:
    """Turns labels into samples with the tokenizer, the template and the vision graph that ship."""

    manifest: Manifest
    template: ChatTemplate
    tokenizer: Tokenizer
    vision: CpuVision
    embeddings: StoredTensor

    def samples(self, directory: Path, labels: list[Label]) -> Iterator[Sample]:
        """A sample for every label; raises ExportError naming the page that cannot be used."""
        for label in labels:
            try:
                yield self._sample(directory, label)
            except QvlError as error:
                raise ExportError(f"cannot calibrate with it: {error}", where=directory / label.image) from error

    def _sample(self, directory: Path, label: Label) -> Sample:
        parts: list[dict[str, Any]] = [{"type": "image", "image": directory / label.image}]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": label.prompt}]}]
        answer = np.array(self._encode(label.answers[0]), dtype=np.int64)
        prompt = build_prompt(messages, self.manifest, self.template.render, self._encode, len(answer))
        whole = prompt.followed_by(answer)
        return Sample(self._embed(whole), whole.positions)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, prompt: Prompt) -> npt.NDArray[np.float32]:
        """Rows of the embedding table with image features spliced in, [1, S, H]."""
        unique, places = np.unique(prompt.ids, return_inverse=True)
        hidden = self.embeddings.rows(unique.tolist()).astype(np.float32)[places]
        for placed in prompt.placed:
            hidden[placed.span.start : placed.span.end] = self._features(placed)
        return hidden[None]

    def _features(self, placed: Placed) -> npt.NDArray[np.float32]:
        patches = patchify(placed.media.frames, self.manifest.image, placed.grid)
        return self.vision.encode(patches.pixel_values, patches.grid)
