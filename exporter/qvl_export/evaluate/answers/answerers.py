"""A loaded model that answers questions: a bundle in the runtime, or a checkpoint in PyTorch."""

from __future__ import annotations

from typing import Any, Protocol

from ...common.arrays import Floats
from .records import Record

HF = "hf"
"""The engine of a checkpoint that PyTorch runs."""
ENDPOINT = "endpoint"
"""The engine of a server."""


class Answerer(Protocol):
    """A loaded model, see `BundleAnswerer` and `transformers_reference.HfAnswerer`."""

    def answer(self, messages: list[dict[str, Any]], limit: int | None) -> Record:
        """Returns a record with the answer, its tokens (including the stop token), times and sizes."""

    def logits(self, messages: list[dict[str, Any]], tokens: list[int]) -> Floats:
        """Returns teacher-forced logits [tokens, vocab]."""

    def clear_cache(self) -> None:
        """Clears the KV cache, so that the next answer is computed like the first; image features may stay cached."""

    def prefill(self, messages: list[dict[str, Any]], limit: int | None) -> None:
        """Brings the model into the state after `answer`, so that the page's next answer is the same bit for bit."""


class BundleAnswerer:
    """A bundle in the runtime, as users run it."""

    def __init__(
        self,
        path: str,
        threads: int | None,
        template_args: dict[str, Any],
        use_generation_config: bool = False,
        prune: str | float | None = None,
    ) -> None:
        from qvl_runtime import load

        self._model, self._template_args = load(path, threads, prune), template_args
        self._patch = self._model.manifest.image.patch_size
        self._recommended = use_generation_config

    def answer(self, messages: list[dict[str, Any]], limit: int | None) -> Record:
        stream = self._model.stream(
            messages,
            limit,
            seed=0,
            template_args=self._template_args,
            use_generation_config=self._recommended,
        )
        text, run = "".join(stream), stream.run
        placed = stream.prompt.placed if stream.prompt else ()
        size = placed[0].media.frames[0].size if placed else (1, 1)
        resized = (placed[0].grid.w * self._patch, placed[0].grid.h * self._patch) if placed else size
        return Record(
            answer=text,
            tokens=[*run.tokens, *([] if run.stop_token is None else [run.stop_token])],
            finish_reason=run.finish_reason or "",
            first_token_seconds=round(run.times.first_token, 5),
            decode_seconds=round(run.times.decode, 5),
            size=size,
            resized=resized,
            image_tokens=run.counts.image,
            pruned_tokens=run.counts.pruned,
        )

    def logits(self, messages: list[dict[str, Any]], tokens: list[int]) -> Floats:
        return self._model.logits(messages, tokens, template_args=self._template_args)

    def clear_cache(self) -> None:
        self._model.decoder.clear()

    def prefill(self, messages: list[dict[str, Any]], limit: int | None) -> None:
        next(self._model.stream(messages, limit, template_args=self._template_args), None)
