"""One request's answer: computed in a thread, handed to the event loop as it is generated, cancelled from there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from time import monotonic

from ..answers.generate import GenerationStats
from ..answers.logprobs import TokenLogprob
from ..answers.stream import Stream
from ..common.interruption import Deadline, interruptible
from ..errors import PromptError
from ..grounding import Region
from ..model import Model
from ..prompts.prompt import Prompt
from ..requests.errors import ApiError, as_api_error
from ..requests.media import MediaReader
from ..requests.notes import collecting
from ..requests.request import ChatRequest, checked_limit
from ..requests.toolbox import Toolbox
from .slots import Slots


@dataclass(frozen=True)
class Piece:
    """Text of an answer, and the tokens that were generated since the piece before."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(eq=False)
class Answer:
    """An answer on its way: `events` end with None. The other fields are complete then, or `error` says why not.

    `regions` are the answer's boxes and points in pixels of the prompt's image, None unless it has exactly one.
    """

    loop: asyncio.AbstractEventLoop
    deadline: Deadline
    run: GenerationStats = field(default_factory=GenerationStats)
    notes: list[str] = field(default_factory=list)
    regions: list[Region] | None = None
    error: ApiError | None = None
    cause: BaseException | None = None
    _events: asyncio.Queue[Piece | None] = field(default_factory=asyncio.Queue)
    _stream: Stream | None = None
    _first: list[Piece | None] = field(default_factory=list)

    async def begun(self) -> None:
        """Waits for the first piece, which stays to be read; raises ApiError if there is none since it failed."""
        piece = await self._events.get()
        if piece is None and self.error is not None:
            raise self.error
        self._first.append(piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yields the pieces; raises ApiError if the answer failed."""
        while (piece := self._first.pop() if self._first else await self._events.get()) is not None:
            yield piece
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        """Ends the answer at its next token; may be called more than once, from any thread."""
        self.deadline.give_up()
        if self._stream is not None:
            self._stream.close()

    def emit(self, piece: Piece | None) -> None:
        """Hands a piece to the event loop, unless that has ended."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._events.put_nowait, piece)

    def check(self) -> None:
        """Raises Interrupted if the answer was cancelled or its time is over before it began."""
        self.deadline.check("before its answer began")

    def follow(self, stream: Stream) -> str:
        """Emits what a stream generates until it ends; returns the whole text."""
        self._stream, self.run = stream, stream.run
        texts = []
        with stream:
            self.check()
            sent = 0
            for text in stream:
                found = tuple(stream.run.logprobs[sent:])
                sent += len(found)
                texts.append(text)
                self.emit(Piece(text, found))
            if rest := tuple(stream.run.logprobs[sent:]):
                self.emit(Piece("", rest))
        return "".join(texts)


def worker(
    answer: Answer, request: ChatRequest, toolbox: Toolbox, slots: Slots, media: Callable[[], MediaReader]
) -> Callable[[], None]:
    """Returns the function that computes an answer in a thread of `slots`; it raises nothing."""

    def work() -> None:
        with collecting() as answer.notes:
            try:
                _compute(answer, request, toolbox, slots, media())
            except BaseException as error:
                answer.error, answer.cause = as_api_error(error), error
            finally:
                answer.emit(None)

    return work


def _compute(answer: Answer, request: ChatRequest, toolbox: Toolbox, slots: Slots, media: MediaReader) -> None:
    base, settings = slots.models[0], request.settings()
    settings["max_new_tokens"] = checked_limit(request, base.manifest)
    answer.check()
    arguments = request.chat_template_kwargs or None
    with interruptible(answer.deadline.check):
        messages = media.messages(request.messages)
        answer.check()
        prompt = base.prompt(messages, settings["max_new_tokens"], toolbox.tools or None, arguments)
    answer.check()
    with slots.use(prompt) as model:
        left = max(answer.deadline.until - monotonic(), 1e-3)
        text = answer.follow(model.stream(prompt, json_schema=toolbox.schema, timeout=left, **settings))
        answer.regions = _regions(model, prompt, text)


def _regions(model: Model, prompt: Prompt, text: str) -> list[Region] | None:
    """Returns the boxes and points of an answer; None unless the prompt has one image, whose pixels they are in."""
    if [placed.media.kind for placed in prompt.placed] != ["image"]:
        return None
    try:
        return model.regions(text, prompt.placed[0])
    except PromptError:  # it is not known how this model writes boxes
        return None
