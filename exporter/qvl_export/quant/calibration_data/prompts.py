"""Calibration samples: questions about pages as inputs of each tower's first stage."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from qvl_runtime.answers.encode import TowerInput, encode, tower_inputs
from qvl_runtime.errors import QvlError
from qvl_runtime.manifest import Manifest
from qvl_runtime.positions import Grid
from qvl_runtime.prompts.prompt import PlacedMedia, Prompt, ScaledImageWarning, build_prompt
from qvl_runtime.prune.rule import Rule
from qvl_runtime.sessions.feeds import cache_state, vision_feeds
from qvl_runtime.templates.chat import ChatTemplate

from ...checkpoint.safetensors_reader import Tensor
from ...common.arrays import Floats, Ints
from ...common.progress import Report
from ...errors import ExportError
from ..calibration.work_dir import Feeds, Sample
from .page_question import Question


class Questions(Protocol):
    """A source of questions that can be read several times: `Pages` or `StoredPages`."""

    def questions(self, report: Report) -> Iterator[Question]: ...


class Encoder(Protocol):
    """A vision tower, or its stored outputs for the images, in order."""

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Returns the image features and the features of D DeepStack layers, [1 + D, tokens, H]."""


def image_token_positions(prompt: Prompt) -> Ints:
    """Positions of the prompt's image tokens, [N]."""
    return np.concatenate([np.arange(placed.span.start, placed.span.end) for placed in prompt.placed])


def llm_feeds(manifest: Manifest, prompt: Prompt, deepstack: Floats, answer: int = 0) -> Feeds:
    """Inputs of decoder stages beside hidden states: positions, an empty cache, and `deepstack` features [D, N, H].

    The head takes the positions that predict the last `answer` tokens, or the last position if `answer` is 0.
    """
    count, image = len(prompt.ids), image_token_positions(prompt)
    return {
        "position_ids": np.ascontiguousarray(prompt.positions[:, None]),
        **empty_cache(manifest, count),
        **cache_state(manifest.target, 0, count, count),
        "logits_positions": np.arange(count - answer - 1, count - 1) if answer else np.array([count - 1]),
        "image_positions": np.stack((np.zeros_like(image), image), axis=-1),
        "ntk_alpha": np.array([prompt.ntk_alpha], np.float32),
        **{f"deepstack_features.{layer}": features for layer, features in enumerate(deepstack)},
    }


def empty_cache(manifest: Manifest, count: int) -> Feeds:
    """What a layer keeps before the first of `count` tokens; layers of one kind keep the same."""
    feeds: Feeds = {}
    for spec in manifest.cache_specs:
        for tensor in spec.tensors:
            shape = list(tensor.dims(count))
            if spec.kind == "kv":
                shape[2] = 0 if manifest.cache_form == "concat" else count  # also if engines have room for more
            feeds[f"past_{tensor.past.rpartition('.')[2]}"] = np.zeros(shape, np.float32)
    return feeds


@dataclass(frozen=True)
class Sampler:
    """Builds prompts from questions about pages, with the bundle's tokenizer and template.

    `prune` is the rule by which blocks of the pages are left out (None: whole pages).
    """

    pages: Questions
    report: Report
    manifest: Manifest
    template: ChatTemplate
    tokenizer: Tokenizer
    prune: Rule | None = None

    def images(self) -> Iterator[TowerInput]:
        """Yields the vision tower's calls for all prompts, in the order in which `tokens` makes them."""
        for prompt, _ in self._prompts():
            for placed in prompt.placed:
                yield from tower_inputs(placed, self.manifest.image)

    def patches(self) -> Iterator[Sample]:
        """Yields samples of the vision tower, `hidden` [1, patches, patch_dim]."""
        for image in self.images():
            yield Sample(image.pixel_values, vision_feeds(self.manifest.image, image.grid, image.cells))

    def tokens(self, vision: Encoder, embeddings: Tensor) -> Iterator[Sample]:
        """Yields samples of the language model, `hidden` [1, S, H]: all tokens at once, with an empty cache."""
        for prompt, answer in self._prompts():
            features = np.concatenate([self._encode_placed(placed, vision) for placed in prompt.placed], axis=1)
            hidden = self._embed(prompt, features[0], embeddings)
            yield Sample(hidden, llm_feeds(self.manifest, prompt, features[1:], answer))

    def _prompts(self) -> Iterator[tuple[Prompt, int]]:
        """Yields the prompt of every question with its answer appended, and the answer's number of tokens.

        Raises ExportError with the page that cannot be used.
        """
        for question in self.pages.questions(self.report):
            try:
                with warnings.catch_warnings():  # large images are scaled down; the runtime does so too, and warns
                    warnings.simplefilter("ignore", ScaledImageWarning)
                    yield self._prompt(question)
            except QvlError as error:
                raise ExportError(f"cannot be used for calibration: {error}", where=question.origin) from error

    def _prompt(self, question: Question) -> tuple[Prompt, int]:
        """Page, prompt and answer, which is cut to half of the maximum length; and the answer's number of tokens."""
        parts = [{"type": "image", "image": question.image}, {"type": "text", "text": question.prompt}]
        answer = np.array(self._encode(question.answer)[: self.manifest.llm.max_length // 2], dtype=np.int64)
        messages = [{"role": "user", "content": parts}]
        prompt = build_prompt(
            messages, self.manifest, self.template.render, self._encode, len(answer), prune=self.prune
        )
        return prompt.followed_by(answer), len(answer)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, prompt: Prompt, features: Floats, embeddings: Tensor) -> Floats:
        """Returns the prompt's embeddings [1, S, H], with image features [N, H] at the image tokens."""
        unique, rows = np.unique(prompt.ids, return_inverse=True)
        hidden = embeddings.rows(unique.tolist()).astype(np.float32)[rows]
        hidden[image_token_positions(prompt)] = features
        return np.asarray(hidden[None], np.float32)

    def _encode_placed(self, placed: PlacedMedia, vision: Encoder) -> Floats:
        """Returns the features of one placed image and its DeepStack features, [1 + D, tokens, H]."""
        features = encode(vision.encode, placed, self.manifest.image)
        return features[:, placed.first_row : placed.first_row + placed.span.tokens]
