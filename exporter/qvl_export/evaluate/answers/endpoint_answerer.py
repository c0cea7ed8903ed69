"""A server as a model of a comparison, see `answerers.Answerer`: the same items, times as the client sees them."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer

from qvl_runtime.media.images import load_image
from qvl_runtime.templates.byte_level import token_bytes

from ...common.arrays import Floats
from ...errors import StoppedError
from .chat_client import REFUSES_ALL, ServerError, stream_chat
from .endpoint_names import Endpoint
from .prefix_agreement import PrefixAgreement, ServedToken, compare_prefix
from .records import Record
from .token_agreement import StoredDistributions

Json = dict[str, Any]
TOP_LOGPROBS = 20
"""The most that OpenAI's interface allows."""
USAGE: Json = {"stream_options": {"include_usage": True}}
LOGPROBS: Json = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
LOGPROB_RANGE = (-700.0, 1e-3)
"""Lower values are probabilities of 0, or stand for one that is not known (-9999.0); 0 may be exceeded by rounding."""
CHECK = "check the address and ,model=MODEL"
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Formats that servers read; others are sent as PNG."""


class EndpointAnswerer:
    """Sends items to a server, greedily and one at a time; `served` are the tokens of the last answer, if it said."""

    def __init__(self, endpoint: Endpoint, template_args: Mapping[str, Any], reference: Path) -> None:
        self._endpoint, self._arguments = endpoint, dict(template_args)
        file = reference / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else None
        self._extras: Sequence[Json] = (USAGE | LOGPROBS, USAGE, {})
        self._answered = False
        self.served: list[ServedToken] = []

    def answer(self, messages: list[Json], limit: int | None) -> Record:
        """Returns the record of an answer; raises ServerError, and StoppedError if all further ones would fail, too.

        A server may refuse fields that it does not know, with the status 400, and is then asked without. If that was
        its first answer, later requests leave them out, too. Otherwise it knows them, and something else was wrong.
        """
        body: Json = {"model": self._endpoint.model, "messages": _inline(messages), "stream": True}
        body |= {"temperature": 0, "max_tokens": limit}
        if self._arguments:
            body["chat_template_kwargs"] = self._arguments
        for place, extra in enumerate(self._extras):
            try:
                record = self._once(body | extra, messages)
            except ServerError as error:
                if error.status in REFUSES_ALL and not self._answered:
                    raise StoppedError(error.what, where=error.where, fix=error.fix or CHECK) from error
                if error.status != 400 or not extra:
                    raise
            else:
                self._extras = self._extras if self._answered else self._extras[place:]
                self._answered = True
                return record
        raise AssertionError

    def _once(self, body: Json, messages: list[Json]) -> Record:
        began, reading = time.perf_counter(), _Reading()
        for chunk in stream_chat(self._endpoint, body):
            reading.add(chunk)
            if reading.texts and not reading.first:
                reading.first = time.perf_counter() - began
        seconds, self.served = time.perf_counter() - began, reading.served
        first = (
            reading.first if len(reading.texts) > 1 else seconds
        )  # one text says nothing about the time of its parts
        return Record(
            answer="".join(reading.texts),
            finish_reason=reading.finish_reason,
            first_token_seconds=round(first, 5),
            decode_seconds=round(seconds - first, 5),
            size=_size(messages),
            generated=reading.generated or len(reading.served),
        )

    def agreement(self, stored: StoredDistributions) -> PrefixAgreement | None:
        """Returns the agreement of the last answer with the reference's.

        None if the server does not say how likely tokens were, or the reference has no `tokenizer.json`, without which
        the bytes of its tokens are not known.
        """
        if self._tokenizer is None:
            return None
        return compare_prefix(stored, self.served, cache(partial(token_bytes, self._tokenizer)))

    def logits(self, messages: list[Json], tokens: list[int]) -> Floats:
        """Raises NotImplementedError: a server cannot be made to read a given answer."""
        raise NotImplementedError

    def clear_cache(self) -> None:
        """Does nothing: the server keeps what it wants to keep."""

    def prefill(self, messages: list[Json], limit: int | None) -> None:
        """Does nothing, see `clear_cache`."""


class _Reading:
    """What was read of an answer so far."""

    def __init__(self) -> None:
        self.texts, self.served, self._places_known = list[str](), list[ServedToken](), True
        self.finish_reason, self.generated, self.first = "", 0, 0.0

    def add(self, chunk: Json) -> None:
        """Adds a chunk, or a whole answer; passes over what is not as OpenAI's interface has it."""
        usage, choices = chunk.get("usage"), chunk.get("choices")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.generated = usage["completion_tokens"]
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        part = choice.get("delta") or choice.get("message")
        if isinstance(part, dict) and isinstance(part.get("content"), str) and part["content"]:
            self.texts.append(part["content"])
        self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)
        found = choice.get("logprobs")
        if isinstance(found, dict) and isinstance(found.get("content"), list):
            self._add_tokens(found["content"])

    def _add_tokens(self, entries: Sequence[Any]) -> None:
        """Adds tokens up to the first that is not as OpenAI's interface has it: the places of later ones are open."""
        for entry in entries:
            token = _token(entry) if self._places_known else None
            if token is None:
                self._places_known = False
                return
            self.served.append(token)


def _token(entry: Any) -> ServedToken | None:
    if (named := _alternative(entry)) is None:
        return None
    top = entry.get("top_logprobs")
    listed = map(_alternative, top if isinstance(top, list) else ())
    return ServedToken(*named, dict(each for each in listed if each is not None) | dict([named]))


def _alternative(entry: Any) -> tuple[bytes, float] | None:
    """Returns the bytes and the log probability of a token; None if they are missing or impossible."""
    if not isinstance(entry, dict) or not isinstance(logprob := entry.get("logprob"), int | float):
        return None
    least, most = LOGPROB_RANGE
    if not least <= logprob <= most:  # NaN, too
        return None
    content, token = entry.get("bytes"), entry.get("token")
    if isinstance(content, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in content):
        return bytes(content), float(logprob)
    return (token.encode("utf-8", "replace"), float(logprob)) if isinstance(token, str) else None


def _inline(messages: list[Json]) -> list[Json]:
    """Returns messages whose images are `data:` URLs instead of paths."""
    return [{**message, "content": [_part(part) for part in message["content"]]} for message in messages]


def _part(part: Json) -> Json:
    if part["type"] != "image":
        return part
    path = Path(part["image"])
    with Image.open(path) as image:
        mime = MIME.get(image.format or "")
    content = path.read_bytes() if mime else _png(path)
    url = f"data:{mime or MIME['PNG']};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _png(path: Path) -> bytes:
    file = io.BytesIO()
    load_image(path).save(file, "PNG")
    return file.getvalue()


def _size(messages: list[Json]) -> tuple[int, int]:
    images = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
    return load_image(images[0]).size if images else (1, 1)
