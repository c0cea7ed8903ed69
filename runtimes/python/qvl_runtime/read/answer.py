"""Answers one task with a model: the record of a page, or the one that says why there is none."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from ..answers.generate import GenerationStats
from ..answers.stream import Stream
from ..errors import PromptError
from ..grounding import Region
from ..media.images import load_page
from ..model import Model
from ..pdf import PdfPage
from ..printable import one_line
from ..prompts.prompt import PlacedMedia
from ..requests.errors import ApiError
from ..requests.media import MediaReader
from ..requests.notes import collecting
from ..requests.request import ChatRequest, read_request
from ..requests.toolbox import Toolbox, read_toolbox
from .options import RETRY_PENALTY, ReadOptions
from .tasks import OpenPdfs, Record, Task, said

Json = dict[str, Any]
MOST_PAGES = 1024
"""Pages and images of a request."""
CHAT_URL = "/v1/chat/completions"
_FENCED = re.compile(r"\s*```[\w-]*\n(.*?)\n?```\s*", re.DOTALL)


class Answerer:
    """Answers tasks with one model; one thread at a time uses it."""

    def __init__(self, model: Model, options: ReadOptions, pdfs: OpenPdfs) -> None:
        self._model, self._options, self._pdfs = model, options, pdfs
        self._stream: Stream | None = None
        self._stopped = False

    def check(self) -> None:
        """Raises PromptError for options or a schema that no page could be answered with."""
        options = self._options
        messages = _messages(options, [{"type": "text", "text": options.prompt or "-"}])
        self._model.stream(messages, json_schema=options.json_schema, **options.settings).close()

    def stop(self) -> None:
        """Ends the answer at its next token, or before the first if its page is still drawn; from any thread."""
        self._stopped = True
        if (stream := self._stream) is not None:
            stream.close()

    def answer(self, task: Task) -> Record:
        """Returns the record of a task; whatever fails is in its `error`."""
        began = perf_counter()
        record = named(task)
        if task.error is not None:
            return record | {"error": task.error}
        with collecting() as notes:
            try:
                record |= self._request(task) if task.request is not None else self._page(task)
            except ApiError as error:
                record["error"] = one_line(error.message)
            except Exception as error:  # one page is not the end of thousands
                record["error"] = one_line(said(error))
        if notes:
            record["notes"] = notes
        record.setdefault("seconds", {})["total"] = round(perf_counter() - began, 4)
        return record

    def _page(self, task: Task) -> Record:
        options, page = self._options, (task.page or 1) - 1
        image = PdfPage(self._pdfs.get(task.path), page) if task.kind == "pdf" else load_page(Path(task.path), page)
        size = {} if options.max_pixels is None else {"max_pixels": options.max_pixels}
        parts: list[Any] = [{"type": "image", "image": image, **size}]
        if options.prompt:
            parts.append({"type": "text", "text": options.prompt})
        return self._answer(_messages(options, parts), {"json_schema": options.json_schema, **options.settings})

    def _request(self, task: Task) -> Record:
        """Answers a request as the server would, but with files below the folder of its own file."""
        custom_id, body = parse_line(task.request or b"")
        id = {} if custom_id is None else {"custom_id": custom_id}
        try:
            request = request_of(body)
            toolbox = read_toolbox(request)
            media = MediaReader(MOST_PAGES, Path(task.path).parent)
            settings = {"tools": toolbox.tools or None, "json_schema": toolbox.schema, **request.settings()}
            settings["template_args"] = request.chat_template_kwargs or None
            answered = self._answer(media.messages(request.messages), settings)
        except ApiError as error:
            return id | {"error": one_line(error.message)}
        except Exception as error:
            return id | {"error": one_line(said(error))}
        return id | answered | _calls(toolbox, answered)

    def _answer(self, messages: list[Any], settings: dict[str, Any]) -> Record:
        if self._options.retry_loops:
            settings = {**settings, "stop_loops": True}
        record = self._once(messages, settings)
        if not self._options.retry_loops or record["finish_reason"] != "loop":
            return record
        penalty = max(settings.get("repetition_penalty") or 1.0, RETRY_PENALTY)
        return self._once(messages, {**settings, "repetition_penalty": penalty}) | {"retried": "loop"}

    def _once(self, messages: list[Any], settings: dict[str, Any]) -> Record:
        with self._model.stream(messages, **settings) as stream:
            self._stream = stream  # set before `_stopped` is read, and read by `stop` after it has set that
            if self._stopped:
                raise PromptError("the answer was cancelled")
            text, placed = "".join(stream), stream.prompt.placed if stream.prompt else ()
        return _outcome(text, self._regions(text, placed), stream.run)

    def _regions(self, text: str, placed: Sequence[PlacedMedia]) -> list[Region]:
        images = [media for media in placed if media.media.kind == "image"]
        if len(images) != 1:
            return []
        try:
            return self._model.regions(text, images[0])
        except PromptError:  # it is not known how this model writes boxes
            return []


def named(task: Task) -> Record:
    """Returns how a record begins: the file, the page or line, and the hash of its content."""
    place = "line" if task.kind == "requests" else "page"
    return {"file": shown_name(task.file), place: task.page, "sha256": task.sha256}


def parse_line(line: bytes) -> tuple[str | None, Json]:
    """Returns the `custom_id` of a line and what it asks for; raises ApiError if it is no JSON object."""
    try:
        value = msgspec.json.decode(line, type=Json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the line is not a JSON object: {str(error)[:200]}") from error
    custom_id = value.pop("custom_id", None)
    if custom_id is not None and not isinstance(custom_id, str):
        raise ApiError(400, "custom_id must be a text")
    return custom_id, value


def request_of(line: Json) -> ChatRequest:
    """Returns the request of a line in OpenAI's batch format, or of one that is the body of a request itself.

    The model's name is not read: there is one. Raises ApiError.
    """
    body = line
    if "body" in line:
        if line.get("method", "POST") != "POST" or line.get("url", CHAT_URL) != CHAT_URL:
            raise ApiError(400, f"only POST to {CHAT_URL} is supported")
        body = line["body"]
        if not isinstance(body, dict):
            raise ApiError(400, "body must be an object")
    if body.get("stream"):
        raise ApiError(400, "stream is not supported in a file of requests")
    return read_request(msgspec.json.encode({"model": "-", **body}))


def unfenced(text: str) -> str:
    """Returns an answer without the code fence around it."""
    found = _FENCED.fullmatch(text)
    return found[1] if found else text


def shown_name(file: str) -> str:
    """Returns the name of a file as JSON can hold it: bytes that are not UTF-8 are escaped."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _messages(options: ReadOptions, parts: list[Any]) -> list[Any]:
    first = [] if options.system is None else [{"role": "system", "content": options.system}]
    return [*first, {"role": "user", "content": parts}]


def _outcome(text: str, regions: list[Region], run: GenerationStats) -> Record:
    if run.finish_reason == "cancelled":
        raise PromptError("the answer was cancelled")
    counts = run.counts
    tokens = {"prompt": counts.prompt, "image": counts.image, "pruned": counts.pruned, "generated": counts.generated}
    return {
        "answer": text,
        "json": _value(text),
        "regions": [asdict(region) for region in regions],
        "finish_reason": run.finish_reason,
        "tokens": tokens,
        "seconds": {name: round(value, 4) for name, value in asdict(run.times).items()},
    }


def _value(text: str) -> Any:
    """Returns the object or the list that an answer is, else None."""
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _calls(toolbox: Toolbox, record: Record) -> Record:
    if not toolbox.tools:
        return {}
    try:
        _, calls = toolbox.read(record["answer"])
    except ValueError:  # a forced call that was cut off
        return {}
    return {"tool_calls": calls} if calls else {}
