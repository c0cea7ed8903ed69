"""Calibration samples: pages with a prompt and an answer, as the first stage of each tower sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.errors import QvlError
from qvl_runtime.manifest import Manifest
from qvl_runtime.preprocess import Patches, patchify
from qvl_runtime.prompt import Placed, Prompt, build_prompt
from qvl_runtime.sessions.cpu import CpuVision, vision_feeds

from ..errors import ExportError
from ..safetensors_file import Tensor
from .work import Feeds, Sample

LABELS = "labels.jsonl"


class Label(msgspec.Struct, forbid_unknown_fields=False):
    """A line of `labels.jsonl`."""

    image: str
    prompt: str
    answers: list[str]


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


def places(prompt: Prompt) -> npt.NDArray[np.int64]:
    """Where the prompt's image tokens are, [N]."""
    return np.concatenate([np.arange(placed.span.start, placed.span.end) for placed in prompt.placed])


def llm_feeds(manifest: Manifest, prompt: Prompt, deepstack: npt.NDArray[np.float32]) -> Feeds:
    """What decoder stages take beside hidden states: positions, an empty cache, and `deepstack` features [D, N, H]."""
    count, llm = len(prompt.ids), manifest.llm
    empty = np.zeros((1, llm.num_key_value_heads, 0, llm.head_dim), np.float32)
    return {
        "position_ids": np.ascontiguousarray(prompt.positions[:, None]),
        "past_key": empty,
        "past_value": empty,
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
        "image_positions": np.stack((np.zeros_like(places(prompt)), places(prompt)), axis=-1),
        **{f"deepstack_features.{layer}": features for layer, features in enumerate(deepstack)},
    }


@dataclass(frozen=True)
class Pages:
    """Labelled pages as prompts, made with the tokenizer and the template that ship."""

    directory: Path
    labels: list[Label]
    manifest: Manifest
    template: ChatTemplate
    tokenizer: Tokenizer

    def patches(self) -> Iterator[Sample]:
        """Samples of the vision tower, `hidden` [1, patches, patch_dim]."""
        for prompt in self._prompts():
            for placed in prompt.placed:
                patches = self._patchify(placed)
                yield Sample(patches.pixel_values, vision_feeds(self.manifest.image, patches.grid))

    def tokens(self, vision: CpuVision, embeddings: Tensor) -> Iterator[Sample]:
        """Samples of the language model, `hidden` [1, S, H], all tokens at once and nothing cached."""
        for prompt in self._prompts():
            features = np.concatenate([self._encode_placed(placed, vision) for placed in prompt.placed], axis=1)
            hidden = self._embed(prompt, features[0], embeddings)
            yield Sample(hidden, llm_feeds(self.manifest, prompt, features[1:]))

    def _prompts(self) -> Iterator[Prompt]:
        """Page, prompt and answer of every label; raises ExportError naming the page that cannot be used."""
        for label in self.labels:
            try:
                yield self._prompt(label)
            except QvlError as error:
                raise ExportError(f"cannot calibrate with it: {error}", where=self.directory / label.image) from error

    def _prompt(self, label: Label) -> Prompt:
        parts: list[dict[str, Any]] = [{"type": "image", "image": self.directory / label.image}]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": label.prompt}]}]
        answer = np.array(self._encode(label.answers[0]), dtype=np.int64)
        return build_prompt(messages, self.manifest, self.template.render, self._encode, len(answer)).followed_by(
            answer
        )

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, prompt: Prompt, features: npt.NDArray[np.float32], embeddings: Tensor) -> npt.NDArray[np.float32]:
        """Rows of the embedding table with image features [N, H] spliced in, [1, S, H]."""
        unique, rows = np.unique(prompt.ids, return_inverse=True)
        hidden = embeddings.rows(unique.tolist()).astype(np.float32)[rows]
        hidden[places(prompt)] = features
        return np.asarray(hidden[None], np.float32)

    def _encode_placed(self, placed: Placed, vision: CpuVision) -> npt.NDArray[np.float32]:
        """Image features and those of DeepStack, [1 + D, tokens, H]."""
        patches = self._patchify(placed)
        features = vision.encode(patches.pixel_values, patches.grid)
        return features[:, placed.first_row : placed.first_row + placed.span.tokens]

    def _patchify(self, placed: Placed) -> Patches:
        return patchify(placed.media.frames, self.manifest.image, placed.max_pixels)
