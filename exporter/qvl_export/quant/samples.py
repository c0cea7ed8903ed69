"""Calibration samples: questions about pages, as the first decoder layer sees them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.errors import QvlError
from qvl_runtime.manifest import Manifest
from qvl_runtime.prompt import Prompt, ScaledImageWarning, build_prompt

from ..errors import ExportError
from ..safetensors_file import StoredTensor
from .question import Question

if TYPE_CHECKING:
    from qvl_runtime.sessions.cpu import CpuVision


@dataclass(frozen=True)
class Sample:
    """One prompt and answer: `hidden` [1, S, H] into the first layer, `positions` [3, S]."""

    hidden: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sampler:
    """Turns questions into samples with the tokenizer, the template and the vision graph that ship."""

    manifest: Manifest
    template: ChatTemplate
    tokenizer: Tokenizer
    vision: CpuVision
    embeddings: StoredTensor

    def sample(self, question: Question) -> Sample:
        """The page, the prompt, and of the answer what half of the maximum length holds.

        Raises ExportError naming the page that cannot be used.
        """
        try:
            with warnings.catch_warnings():  # what does not fit is scaled down, as the runtime will do and say
                warnings.simplefilter("ignore", ScaledImageWarning)
                return self._sample(question)
        except QvlError as error:
            raise ExportError(f"cannot calibrate with it: {error}", where=question.origin) from error

    def _sample(self, question: Question) -> Sample:
        parts = [{"type": "image", "image": question.image}, {"type": "text", "text": question.prompt}]
        answer = np.array(self._encode(question.answer)[: self.manifest.llm.max_length // 2], dtype=np.int64)
        messages = [{"role": "user", "content": parts}]
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
            patches = placed.patches(self.manifest.image)
            hidden[placed.span.start : placed.span.end] = self.vision.encode(patches.pixel_values, patches.grid)
        return hidden[None]
