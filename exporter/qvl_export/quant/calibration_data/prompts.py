"""Calibration samples: questions about pages, as the first stage of each tower sees them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from qvl_runtime.errors import QvlError
from qvl_runtime.manifest import Manifest
from qvl_runtime.positions import Grid
from qvl_runtime.preprocess import Patches
from qvl_runtime.prompts.prompt import Placed, Prompt, ScaledImageWarning, build_prompt
from qvl_runtime.sessions.feeds import cache_state, vision_feeds
from qvl_runtime.templates.chat import ChatTemplate

from ...checkpoint.safetensors_reader import Tensor
from ...common.progress import Report
from ...errors import ExportError
from ..calibration.work_dir import Feeds, Sample
from .page_question import Question
from .selection import Pages


class Encoder(Protocol):
    """A vision tower, or what it gave the images before, one after another."""

    def encode(self, pixel_values: npt.NDArray[np.float32], grid: Grid) -> npt.NDArray[np.float32]:
        """Image features and those of D DeepStack layers [1 + D, tokens, H]."""


def places(prompt: Prompt) -> npt.NDArray[np.int64]:
    """Where the prompt's image tokens are, [N]."""
    return np.concatenate([np.arange(placed.span.start, placed.span.end) for placed in prompt.placed])


def llm_feeds(manifest: Manifest, prompt: Prompt, deepstack: npt.NDArray[np.float32], answer: int = 0) -> Feeds:
    """What decoder stages take beside hidden states: positions, an empty cache, and `deepstack` features [D, N, H].

    The head takes the positions whose next tokens are the last `answer` ones, or the last position.
    """
    count, llm, image = len(prompt.ids), manifest.llm, places(prompt)
    empty = np.zeros((1, llm.num_key_value_heads, count, llm.head_dim), np.float32)
    return {
        "position_ids": np.ascontiguousarray(prompt.positions[:, None]),
        "past_key": empty,
        "past_value": empty,
        **cache_state(manifest.target, 0, count, count),
        "logits_positions": np.arange(count - answer - 1, count - 1) if answer else np.array([count - 1]),
        "image_positions": np.stack((np.zeros_like(image), image), axis=-1),
        "ntk_alpha": np.array([prompt.ntk_alpha], np.float32),
        **{f"deepstack_features.{layer}": features for layer, features in enumerate(deepstack)},
    }


@dataclass(frozen=True)
class Sampler:
    """Questions about pages as prompts, made with the tokenizer and the template that ship."""

    pages: Pages
    report: Report
    manifest: Manifest
    template: ChatTemplate
    tokenizer: Tokenizer

    def images(self) -> Iterator[Patches]:
        """The images of all prompts, as they are encoded for `tokens`."""
        for prompt, _ in self._prompts():
            yield from (placed.patches(self.manifest.image) for placed in prompt.placed)

    def patches(self) -> Iterator[Sample]:
        """Samples of the vision tower, `hidden` [1, patches, patch_dim]."""
        for image in self.images():
            yield Sample(image.pixel_values, vision_feeds(self.manifest.image, image.grid))

    def tokens(self, vision: Encoder, embeddings: Tensor) -> Iterator[Sample]:
        """Samples of the language model, `hidden` [1, S, H], all tokens at once and nothing cached."""
        for prompt, answer in self._prompts():
            features = np.concatenate([self._encode_placed(placed, vision) for placed in prompt.placed], axis=1)
            hidden = self._embed(prompt, features[0], embeddings)
            yield Sample(hidden, llm_feeds(self.manifest, prompt, features[1:], answer))

    def _prompts(self) -> Iterator[tuple[Prompt, int]]:
        """Page, prompt and answer of every question, and the answer's tokens.

        Raises ExportError naming the page that cannot be used.
        """
        for question in self.pages.questions(self.report, leave_out=lambda _: None):  # told when they were counted
            try:
                with warnings.catch_warnings():  # what does not fit is scaled down, as the runtime will do and say
                    warnings.simplefilter("ignore", ScaledImageWarning)
                    yield self._prompt(question)
            except QvlError as error:
                raise ExportError(f"cannot calibrate with it: {error}", where=question.origin) from error

    def _prompt(self, question: Question) -> tuple[Prompt, int]:
        """The page, the prompt, and of the answer what half of the maximum length holds."""
        parts = [{"type": "image", "image": question.image}, {"type": "text", "text": question.prompt}]
        answer = np.array(self._encode(question.answer)[: self.manifest.llm.max_length // 2], dtype=np.int64)
        messages = [{"role": "user", "content": parts}]
        prompt = build_prompt(messages, self.manifest, self.template.render, self._encode, len(answer))
        return prompt.followed_by(answer), len(answer)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, prompt: Prompt, features: npt.NDArray[np.float32], embeddings: Tensor) -> npt.NDArray[np.float32]:
        """Rows of the embedding table with image features [N, H] spliced in, [1, S, H]."""
        unique, rows = np.unique(prompt.ids, return_inverse=True)
        hidden = embeddings.rows(unique.tolist()).astype(np.float32)[rows]
        hidden[places(prompt)] = features
        return np.asarray(hidden[None], np.float32)

    def _encode_placed(self, placed: Placed, vision: Encoder) -> npt.NDArray[np.float32]:
        """Image features and those of DeepStack, [1 + D, tokens, H]."""
        patches = placed.patches(self.manifest.image)
        features = vision.encode(patches.pixel_values, patches.grid)
        return features[:, placed.first_row : placed.first_row + placed.span.tokens]
