"""`Model`: a loaded bundle that answers questions about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import grounding
from .bundle import read_manifest
from .bundle_texts import open_texts
from .errors import PromptError
from .feature_cache import CachedEncoder
from .generate import Decoder, Run
from .manifest import Manifest
from .media import ImageSource, load_image
from .positions import Ints
from .prompt import Media, Message, Placed, Prompt, build_prompt, put
from .rotation import Rotation
from .sampling import Sampling
from .sessions import Floats, open_engine
from .stream import Stream
from .tokenizer import encode
from .tools import check_tools

if TYPE_CHECKING:
    from .constrain import Grammars, Schema

FEATURE_CACHE_BYTES = 256 << 20
MAX_NEW_TOKENS = 512
Tool = Mapping[str, Any]


def load(bundle: str | Path, threads: int | None = None) -> Model:
    """Open a bundle directory; `threads` bounds the cores used (all where None).

    Raises BundleError when it is missing, damaged, truncated or from the future, InstallError for a broken install,
    EngineError for an engine that fails, PromptError for `threads` that are none.
    """
    path = Path(bundle)
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise PromptError(f"threads is {threads!r}", fix="give a positive whole number, or None for all cores")
    return Model(path, read_manifest(path), threads)


class Model:
    """A bundle in memory, with one KV cache: threads that call `generate` take turns.

    Of two streams the later one wins, and the earlier says so at its next piece; load the bundle twice for both.
    """

    def __init__(self, bundle: Path, manifest: Manifest, threads: int | None = None) -> None:
        self.bundle, self.manifest = bundle, manifest
        self.tokenizer, self._template = open_texts(bundle, manifest.special_tokens)
        self._engine = open_engine(bundle, manifest, threads)
        ids = {mark: self.tokenizer.token_to_id(mark) for mark in grounding.MARKS}
        self._marks = {id: mark for mark, id in ids.items() if id is not None}
        self._features = CachedEncoder(self._engine, manifest.image, FEATURE_CACHE_BYTES)
        self._decoder = Decoder(self._engine, manifest.llm, self._features)

    def generate(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        tools: Sequence[Tool] | None = None,
        json_schema: Schema | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> str:
        """The answer to chat messages; greedy at temperature 0.

        Raises PromptError and MediaError for what is asked, InstallError for a part of the runtime that it needs and
        is not installed, EngineError where the engine fails.

        `tools` are described to the model; `tools.parse_calls` reads its calls from the answer. With a `json_schema`,
        an object or its text, the answer is JSON of that schema, also when `max_new_tokens` cuts it: then it is closed.
        `template_args` are variables of the chat template, such as `{"enable_thinking": False}`.
        """
        sampling = Sampling(temperature, top_p, top_k, seed)
        with self._decoder.lock:
            return "".join(
                self._stream(messages, max_new_tokens, sampling, tools, json_schema, template_args=template_args)
            )

    def stream(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        ignore_eos: bool = False,
        tools: Sequence[Tool] | None = None,
        json_schema: Schema | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Stream:
        """The answer piece by piece, never splitting a character; `.run` tells tokens and times.

        Without `max_new_tokens` it is at most 512 tokens and a quarter of the bundle's maximum length. `ignore_eos`
        goes on to the limit, for measurements. Starting another prompt on this model ends it: its next piece raises
        PromptError. `tools`, `json_schema` and `template_args` are those of `generate`; `.prompt` is what was asked.
        """
        sampling = Sampling(temperature, top_p, top_k, seed)
        return self._stream(messages, max_new_tokens, sampling, tools, json_schema, ignore_eos, template_args)

    def _stream(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None,
        sampling: Sampling,
        tools: Sequence[Tool] | None,
        json_schema: Schema | None,
        ignore_eos: bool = False,
        template_args: Mapping[str, Any] | None = None,
    ) -> Stream:
        limit = self._limit(max_new_tokens)
        if ignore_eos and json_schema is not None:
            raise PromptError("ignore_eos and json_schema exclude each other")
        constraint = None if json_schema is None else self._grammars.constraint(json_schema)
        prompt, run = self.prompt(messages, limit, tools, template_args), Run()
        choose = constraint.chooser(sampling.chooser()) if constraint else sampling.chooser()
        stop = frozenset() if ignore_eos else frozenset(self.manifest.tokens.stop)
        tokens = self._decoder.generate(prompt, limit, stop, choose, run)
        tokens = constraint.closed(tokens, run) if constraint else tokens
        return Stream(tokens, self.tokenizer, run, prompt, self._marks)

    def _limit(self, max_new_tokens: int | None) -> int:
        limit = min(MAX_NEW_TOKENS, self.manifest.llm.max_length // 4) if max_new_tokens is None else max_new_tokens
        if not isinstance(limit, int) or limit < 1:
            raise PromptError(f"max_new_tokens is {max_new_tokens!r}", fix="ask for a whole number, at least one")
        return limit

    def regions(self, answer: str, image: ImageSource | Placed) -> list[grounding.Region]:
        """The boxes and points of an answer about `image`, in its pixels.

        `stream.prompt.placed[i]` says it of the i-th image of a prompt: it knows when that was scaled down to fit.
        """
        placed = image if isinstance(image, Placed) else self._alone(image)
        side = self.manifest.image.patch_size
        seen = placed.grid.w * side, placed.grid.h * side
        return grounding.parse(answer, self.manifest.family, placed.media.frames[0].size, seen)

    def encode(self, image: ImageSource) -> Floats:
        """Image features [tokens, hidden] of one image as the checkpoint has them, without those of DeepStack."""
        features, llm = self._encode(self._alone(image))[0], self.manifest.llm
        if llm.rotation_seed is not None:
            return Rotation(llm.hidden_size, llm.rotation_seed).undo(features)
        return np.ascontiguousarray(features)

    def _alone(self, image: ImageSource) -> Placed:
        return put(Media("image", (load_image(image),)), 0, self.manifest.image.max_pixels, self.manifest)

    def logits(
        self,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        tools: Sequence[Tool] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Floats:
        """Teacher-forced logits [answer tokens, vocab]: row i predicts token i of the answer, a text or token ids."""
        ids = self._forced(answer)
        prompt = self.prompt(messages, len(ids), tools, template_args)
        wanted = np.arange(len(prompt.ids) - 1, len(prompt.ids) + len(ids) - 1)
        return self._decoder.prefill(prompt.followed_by(ids[:-1]), wanted, Run())

    def _forced(self, answer: str | Sequence[int]) -> Ints:
        """The ids of a given answer; raises PromptError for what is none."""
        if isinstance(answer, str):
            answer = self._ids(answer)
        ids, size = np.array([] if answer is None else answer), self.manifest.llm.vocab_size
        whole = ids.ndim == 1 and len(ids) and np.issubdtype(ids.dtype, np.integer)
        if not whole or ids.min() < 0 or ids.max() >= size:
            raise PromptError(f"the answer is {answer!r:.80}", fix=f"give a text or ids from 0 to {size - 1} to force")
        return ids.astype(np.int64)

    def prompt(
        self,
        messages: Sequence[Message],
        reserve: int = 0,
        tools: Sequence[Tool] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Token ids, positions and media of chat messages, leaving `reserve` tokens for the answer."""
        render = partial(self._template.render, tools=check_tools(tools), template_args=template_args)
        return build_prompt(messages, self.manifest, render, self._ids, reserve)

    def clear(self) -> None:
        """Free the KV cache and all image features; the next prompt is computed anew."""
        with self._decoder.lock:
            self._features.clear()
            self._decoder.clear()
            self._engine.clear()

    def close(self) -> None:
        """Free the engine too; the model cannot be used after it. May be called twice, as `with` may after it."""
        with self._decoder.lock:
            self._features.clear()
            self._decoder.clear()
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _grammars(self) -> Grammars:
        from .constrain import Grammars

        text = (self.bundle / "tokenizer.json").read_text("utf-8-sig")
        return Grammars(text, self.manifest.llm.vocab_size, self.manifest.tokens.stop)

    def _ids(self, text: str) -> list[int]:
        return encode(self.tokenizer, text, self.manifest.llm.vocab_size)

    def _encode(self, placed: Placed) -> Floats:
        """Image features and those of D DeepStack layers [1 + D, tokens, hidden], cached."""
        with self._decoder.lock:
            return self._features(placed)

    def __repr__(self) -> str:
        return f"Model({str(self.bundle)!r}, {self.manifest.family}, {self.manifest.graphs['llm'].precision})"
