"""`Model`: a loaded bundle that answers questions about images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tokenizers import Tokenizer

from . import grounding
from .answers.feature_cache import CachedEncoder, FeatureCache
from .answers.generate import Decoder, GenerationStats, Halt, never
from .answers.logprobs import recording
from .answers.lookup import Lookup
from .answers.loops import stopping_loops
from .answers.options import AnswerOptions, ResolvedOptions
from .answers.stream import Stream
from .bundle import has_utf8_name, read_manifest
from .common.arrays import Floats, Ints
from .common.checks import check_int, quoted
from .errors import BundleError, EngineError, PromptError, TruncatedAnswerWarning
from .manifest import DECODE, Manifest
from .media.images import ImageSource, load_image
from .prompts.prompt import Media, Message, PlacedMedia, Prompt, build_prompt, place_media
from .prune.rule import Rule, check_grid, parse_rule
from .rotation import Rotation
from .sessions import open_engine
from .sessions.engine import Engine, Forkable
from .templates.bundle_texts import open_texts, read_text
from .templates.tokenizer import encode
from .tools import check_tools

if TYPE_CHECKING:
    from .answers.constrain import Grammars
    from .answers.json_schemas import Schema
    from .templates.chat import ChatTemplate

FEATURE_CACHE_BYTES = 256 << 20
Tool = Mapping[str, Any]


def load(
    bundle: str | Path, threads: int | None = None, prune: str | float | None = None, device: str | None = None
) -> Model:
    """Opens a bundle directory; `threads` limits the cores used (None: all).

    `device` is where OpenVINO runs a bundle of target `openvino`: "CPU" (the default), "GPU" or "AUTO".

    `prune` says what is left out of images and videos that do not say it themselves: "off" (nothing), "exact" (blocks
    that their neighbours predict in every pixel), "scan" or a tolerance (nearly), True (the rule that measured best),
    None (as the bundle was exported, by default nothing).

    Raises BundleError if it is missing, damaged, truncated or of a newer schema version, InstallError for a broken
    installation, EngineError if the engine fails or has no such device, PromptError if `threads` is not a positive
    whole number, for a `prune` that is no rule or that the model cannot follow, and for a `device` that the target does
    not read.
    """
    path = Path(bundle)
    rule = parse_rule(prune)
    if threads is not None:
        threads = check_int("threads", threads, 1, fix="None uses all cores")
    manifest = read_manifest(path)  # the path as given, so that errors quote it
    if not has_utf8_name(path):
        raise BundleError("its path is not UTF-8; engines cannot open it", where=path, fix="rename the directory")
    check_grid(rule, manifest)
    return Model(path.absolute(), manifest, threads, rule, device)


class Model:
    """A loaded bundle with one KV cache: threads that call `generate` take turns.

    Starting a second stream ends the first, which raises at its next piece; load the bundle twice to run both.
    `engine` and `decoder` make single calls of the graphs, for measurements.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        threads: int | None = None,
        prune: Rule | None = None,
        device: str | None = None,
    ) -> None:
        self.bundle, self.manifest, self.prune = bundle, manifest, prune or parse_rule(manifest.image.prune)
        self.engine, (self.tokenizer, self._template) = _open(bundle, manifest, threads, device)
        ids = {mark: self.tokenizer.token_to_id(mark) for mark in grounding.MARKS}
        self._marks = {id: mark for mark, id in ids.items() if id is not None}
        self._loaded: Model | None = None  # of a fork: the model that was loaded, which it shares grammars with
        self._take(self.engine, FeatureCache(FEATURE_CACHE_BYTES))

    def _take(self, engine: Engine, features: FeatureCache) -> None:
        self.engine, manifest = engine, self.manifest
        self._features = CachedEncoder(engine, manifest.image, features)
        message_ends = manifest.tokens.stop if manifest.recurrent else None
        self.decoder = Decoder(engine, manifest.llm, self._features, message_ends)

    def fork(self) -> Model:
        """Returns a model for another thread: it shares weights and image features and has a KV cache of its own.

        Raises EngineError if the engine of the bundle's target cannot share its weights.
        """
        if not isinstance(self.engine, Forkable):
            problem = f"engines of target {self.manifest.target!r} compute one answer at a time"
            raise EngineError(problem, fix="load the bundle twice")
        twin = copy(self)
        twin._loaded = self._loaded or self
        twin._take(self.engine.fork(), self._features.cache)
        return twin

    @property
    def features(self) -> FeatureCache:
        """The cache of image features, which forks share."""
        return self._features.cache

    def generate(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        tools: Sequence[Tool] | None = None,
        json_schema: Schema | None = None,
        *,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        presence_penalty: float = 0.0,
        use_generation_config: bool = False,
        stop: str | Sequence[str] = (),
        stop_loops: bool = False,
        timeout: float | None = None,
        lookup: bool | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the answer to chat messages; decoding is greedy by default.

        Raises PromptError or MediaError for invalid messages, options or media, InstallError if an optional package
        that the request needs is not installed, EngineError if the engine fails.

        `tools` are described to the model; `tools.parse_calls` reads its calls from the answer. With a `json_schema`
        (an object or JSON text) the answer is JSON that follows it; a truncated answer is closed, so it stays valid.
        With `use_generation_config` options that are not given come from the checkpoint's `generation_config.json`.
        The answer ends before the first of the `stop` strings, and `timeout` seconds after this call; the time is
        checked before every token, every image and every 1,024 prompt tokens. With `stop_loops` it also ends where it
        repeats the same tokens over and over. `template_args` are variables of the chat template, such as
        `{"enable_thinking": False}`.

        With `lookup` several tokens run in one call: those that a schema determines and, in greedy decoding, guesses
        from repetitions in prompt and answer, of which the model keeps what it would have chosen. False runs every
        token by itself. By default tokens of a schema run together where the answer stays the same to the token.

        Warns with TruncatedAnswerWarning if the answer was cut off by the default `max_new_tokens`, by `timeout` or in
        a loop, or had to be closed. `stream` yields pieces as they are generated.
        """
        options = AnswerOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            presence_penalty=presence_penalty,
            use_generation_config=use_generation_config,
            stop=stop,
            stop_loops=stop_loops,
            timeout=timeout,
            lookup=lookup,
        ).resolve(self.manifest)
        halt = Halt(options.timeout)
        with self.decoder.lock:
            stream = self._stream(messages, options, halt, tools, json_schema, template_args=template_args)
            answer = "".join(stream)
        _warn_of_cuts(stream.run, options)
        return answer

    def stream(
        self,
        messages: Sequence[Message] | Prompt,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        ignore_eos: bool = False,
        tools: Sequence[Tool] | None = None,
        json_schema: Schema | None = None,
        *,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        presence_penalty: float = 0.0,
        use_generation_config: bool = False,
        stop: str | Sequence[str] = (),
        stop_loops: bool = False,
        timeout: float | None = None,
        lookup: bool | None = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Streams the answer in pieces, never splitting a character; `.run` has tokens, times and `finish_reason`.

        In place of messages it takes a `prompt(…)` of them, which has the tools and template arguments already.
        Without `max_new_tokens` the answer has at most 512 tokens and a quarter of the bundle's maximum length.
        `ignore_eos` generates up to the limit, for benchmarks. Starting another prompt on this model ends the stream:
        its next piece raises PromptError, or EngineError if the model was closed. With `logprobs`, `.run.logprobs` has
        the log probability of each token and of the `top_logprobs` likeliest ones; tokens of a schema then run one by
        one. The other options are those of `generate`; `.prompt` is the prompt. `.close()`, or leaving
        `with model.stream(…) as stream:`, ends it early.
        """
        options = AnswerOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            presence_penalty=presence_penalty,
            use_generation_config=use_generation_config,
            stop=stop,
            stop_loops=stop_loops,
            timeout=timeout,
            lookup=lookup,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
        ).resolve(self.manifest)
        return self._stream(messages, options, Halt(options.timeout), tools, json_schema, ignore_eos, template_args)

    def _stream(
        self,
        messages: Sequence[Message] | Prompt,
        options: ResolvedOptions,
        halt: Halt,
        tools: Sequence[Tool] | None,
        json_schema: Schema | None,
        ignore_eos: bool = False,
        template_args: Mapping[str, Any] | None = None,
    ) -> Stream:
        if json_schema is not None and ignore_eos:
            raise PromptError("ignore_eos and json_schema cannot be combined")
        constraint = None if json_schema is None else (self._loaded or self)._grammars.constraint(json_schema)
        if isinstance(messages, Prompt):
            _check_length(messages, options.max_new_tokens, self.manifest)
            prompt = messages
        else:
            prompt = self.prompt(messages, options.max_new_tokens, tools, template_args)
        stats = GenerationStats()
        stop = frozenset() if ignore_eos else frozenset(self.manifest.tokens.stop)
        pick = options.penalties.picker(options.presence.picker(options.sampling.picker()), prompt.ids)
        pick = constraint.picker(pick) if constraint else pick
        together = self._runs_together if options.lookup is None else options.lookup
        if options.alternatives is not None:
            pick, together = recording(pick, options.alternatives, stats.logprobs, stop), False
        certain = constraint.certain if constraint and together else never
        lookup = Lookup(prompt.ids.tolist()) if options.lookup and options.sampling.temperature == 0 else None
        tokens = self.decoder.generate(prompt, options.max_new_tokens, stop, pick, stats, halt, certain, lookup)
        guarded = stopping_loops(tokens, stats) if options.stop_loops else tokens
        whole, ending = (constraint.with_ending(guarded, stats), constraint.closing) if constraint else (guarded, None)
        return Stream(whole, self.tokenizer, stats, prompt, self._marks, options.stop, halt, ending)

    def regions(self, answer: str, image: ImageSource | PlacedMedia) -> list[grounding.Region]:
        """Returns the boxes and points of an answer about `image`, in pixels of the image.

        For the i-th image of a prompt pass `stream.prompt.placed[i]`, which accounts for images scaled down to fit.
        """
        placed = image if isinstance(image, PlacedMedia) else self._place_alone(image)
        side = self.manifest.image.patch_size
        seen = placed.grid.w * side, placed.grid.h * side
        return grounding.parse(answer, grounding.notation_of(self.manifest), placed.media.frames[0].size, seen)

    def encode(self, image: ImageSource) -> Floats:
        """Returns the image features [tokens, hidden] in the checkpoint's basis, without the DeepStack features.

        They are those of the whole image, whatever `prune` leaves out of prompts.
        """
        features, llm = self.image_features(self._place_alone(image))[0], self.manifest.llm
        if llm.rotation_seed is not None:
            return Rotation(llm.hidden_size, llm.rotation_seed).undo(features)
        return np.ascontiguousarray(features)

    def image_features(self, placed: PlacedMedia) -> Floats:
        """Returns the features [1 + D, tokens, hidden] of placed media and of D DeepStack layers, in `llm`'s basis."""
        with self.decoder.lock:
            return self._features(placed)

    def _place_alone(self, image: ImageSource) -> PlacedMedia:
        return place_media(Media("image", (load_image(image),)), 0, self.manifest.image.max_pixels, self.manifest)

    def logits(
        self,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        tools: Sequence[Tool] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Floats:
        """Returns teacher-forced logits [answer tokens, vocab]: row i predicts token i of `answer` (text or ids)."""
        ids = self._forced_ids(answer)
        prompt = self.prompt(messages, len(ids), tools, template_args)
        wanted = np.arange(len(prompt.ids) - 1, len(prompt.ids) + len(ids) - 1)
        return self.decoder.prefill(prompt.followed_by(ids[:-1]), wanted, GenerationStats())

    def _forced_ids(self, answer: str | Sequence[int]) -> Ints:
        """Returns the token ids of a given answer; raises PromptError if it is not text or valid ids, or is empty."""
        if isinstance(answer, str):
            answer = self.token_ids(answer)
        size = self.manifest.llm.vocab_size
        try:
            ids = np.array([] if answer is None else answer)
        except ValueError:  # lists of several lengths
            ids = np.array([])
        is_ids = ids.ndim == 1 and len(ids) and np.issubdtype(ids.dtype, np.integer)
        if not is_ids or ids.min() < 0 or ids.max() >= size:
            raise PromptError(f"the answer must be a text or ids from 0 to {size - 1}, got {quoted(answer)}")
        return ids.astype(np.int64)

    def prompt(
        self,
        messages: Sequence[Message],
        reserve: int = 0,
        tools: Sequence[Tool] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Returns the token ids, positions and media of chat messages, leaving `reserve` tokens for the answer."""
        render = partial(self._template.render, tools=check_tools(tools), template_args=template_args)
        reads = self._template.reads
        return build_prompt(messages, self.manifest, render, self.token_ids, reserve, reads, self.prune)

    def token_ids(self, text: str) -> list[int]:
        """Returns the token ids of a text; raises PromptError for tokens that the model does not have."""
        return encode(self.tokenizer, text, self.manifest.llm.vocab_size)

    def clear(self) -> None:
        """Frees the KV cache and all cached image features; the next prompt is computed from scratch."""
        with self.decoder.lock:
            self._features.clear()
            self.decoder.clear()
            self.engine.clear()

    def close(self) -> None:
        """Frees the engine too, after which the model cannot be used. May be called more than once.

        Waits for a `generate` call in another thread; an unfinished stream raises EngineError at its next piece.
        """
        with self.decoder.lock:
            self._features.clear()
            self.decoder.close()
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _runs_together(self) -> bool:
        """Whether tokens that run in one call give the same answers as one by one: kernels round to other bits.

        Float weights pass on such a difference as it is; int8 activations, rounded token by token, enlarge it.
        """
        answers = self.manifest.graphs.get(DECODE, self.manifest.graphs["llm"])
        return self.manifest.target == "cpu" and answers.precision in ("fp32", "fp16")

    @cached_property
    def _grammars(self) -> Grammars:
        from .answers.constrain import Grammars

        text = read_text(self.bundle / "tokenizer.json")
        return Grammars(text, self.manifest.llm.vocab_size, self.manifest.tokens.stop)

    def __repr__(self) -> str:
        return f"Model({str(self.bundle)!r}, {self.manifest.family}, {self.manifest.graphs['llm'].precision})"


def _check_length(prompt: Prompt, answer: int, manifest: Manifest) -> None:
    """Raises PromptError if a prompt and an answer are longer than the bundle's maximum length."""
    if len(prompt.ids) + answer > manifest.llm.max_length:
        problem = f"a prompt of {len(prompt.ids)} tokens and an answer of {answer} do not fit {manifest.llm.max_length}"
        raise PromptError(problem, fix="make the prompt with `reserve` for the answer")


def _open(
    bundle: Path, manifest: Manifest, threads: int | None, device: str | None
) -> tuple[Engine, tuple[Tokenizer, ChatTemplate]]:
    """Opens the engine, and the text files in another thread meanwhile; their error goes first."""
    with ThreadPoolExecutor(1) as pool:
        texts = pool.submit(open_texts, bundle, manifest.special_tokens)
        try:
            engine = open_engine(bundle, manifest, threads, device)
        except Exception:
            texts.result()
            raise
    try:
        return engine, texts.result()
    except BaseException:
        engine.close()
        raise


def _warn_of_cuts(stats: GenerationStats, options: ResolvedOptions) -> None:
    """Warns the caller of `generate`, who gets only the text, of an end that neither caller nor model chose."""
    count, what = stats.counts.generated, ""
    if stats.finish_reason == "timeout":
        what = f"the answer was cut off by timeout={options.timeout:g} after {count} tokens"
    elif stats.finish_reason == "loop":
        what = f"the answer was stopped after {count} tokens, of which the last {stats.loop} repeat"
    elif stats.forced and stats.stop_string is not None:
        what = f"the answer was cut off by the stop string {stats.stop_string!r:.80}"
    elif stats.finish_reason == "length" and (options.limit_by_default or stats.forced):
        default = ", the default of max_new_tokens" if options.limit_by_default else ""
        what = f"the answer was cut off after {count} tokens{default}"
    if what and stats.forced:
        what += f"; {stats.forced!r:.80} was added to make it JSON"
    if what:
        warnings.warn(f"{what} (stream() reports the finish_reason)", TruncatedAnswerWarning, stacklevel=3)
