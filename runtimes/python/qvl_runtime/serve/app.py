"""The application: routes of OpenAI's interface, of health and of metrics over one model."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from time import monotonic, time
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..common.interruption import Deadline, interruptible
from ..manifest import MANIFEST
from ..model import Model
from ..requests.errors import ApiError, as_api_error
from ..requests.media import MediaReader
from ..requests.notes import routed
from ..requests.request import ChatRequest, checked_limit, read_request
from ..requests.toolbox import Toolbox, read_toolbox
from . import log
from .answering import Answer, worker
from .chat import ChatForm, Json
from .fetch import Fetcher
from .guards import LOOPBACK, Guard
from .metrics import Metrics
from .options import ServeOptions
from .pages import PageRequest, read_page_request, rendered
from .slots import Slots
from .web_page import page_response

BODY_SECONDS = 60.0
"""Time in which the body of a request has to arrive."""
Result = TypeVar("Result")
Endpoint = Callable[[Request], Awaitable[Response]]


class ClientGone(Exception):
    """The client closed its connection before its answer began."""


class Service:
    """Answers the requests for one model; `drain` and `close` end it."""

    def __init__(self, model: Model, options: ServeOptions) -> None:
        self.options, self.slots = options, Slots(model, options.parallel, options.waiting)
        self.metrics, self._answers = Metrics(self.slots), set[Answer]()
        manifest = (model.bundle / MANIFEST).read_bytes()
        self._fingerprint, self._created = f"fp_{hashlib.sha256(manifest).hexdigest()[:12]}", int(time())

    def cancel(self) -> None:
        """Ends all answers at their next token."""
        for answer in list(self._answers):
            answer.cancel()

    def card(self) -> Json:
        """Returns the entry of the model in `/v1/models`."""
        manifest = self.slots.models[0].manifest
        own = {"family": manifest.family, "max_length": manifest.llm.max_length, "parallel": self.options.parallel}
        return {"id": self.options.model_name, "object": "model", "created": self._created, "owned_by": "qvl"} | own

    async def chat(self, http: Request) -> Response:
        """`POST /v1/chat/completions`."""
        began = monotonic()
        request = read_request(await body_of(http, self.options.max_body_bytes))
        if request.model != self.options.model_name:
            served = f"this server has {self.options.model_name!r}"
            raise ApiError(404, f"there is no such model, {served}", param="model", code="model_not_found")
        toolbox = read_toolbox(request)
        model = self.slots.models[0]
        checked_limit(request, model.manifest)
        form = ChatForm(request.model, self._fingerprint, model.tokenizer, toolbox, request.logprobs)
        answer = await unless_gone(http, self._started(request, toolbox, began + self.options.timeout))
        report = partial(self._report, http, request, answer, form.id, began)
        if request.stream:
            return await self._streamed(http, request, answer, form, report)
        with _ending_on_failure(answer, report):
            whole = await unless_gone(http, form.whole(answer))
        report(200)
        return JSONResponse(whole)

    async def _started(self, request: ChatRequest, toolbox: Toolbox, until: float) -> Answer:
        """Returns an answer that is being computed; raises ApiError if the queue is full or takes too long."""
        answer = Answer(asyncio.get_running_loop(), Deadline(until))
        work = worker(answer, request, toolbox, self.slots, self._media)
        running = await self.slots.run(work, until - monotonic())
        self._answers.add(answer)
        running.add_done_callback(lambda _: self._answers.discard(answer))
        return answer

    def _media(self) -> MediaReader:
        fetch = Fetcher() if self.options.allow_urls else None
        return MediaReader(self.options.max_pages, self.options.media_root, fetch)

    async def _streamed(
        self, http: Request, request: ChatRequest, answer: Answer, form: ChatForm, report: Callable[[int], None]
    ) -> Response:
        """Returns the events of an answer once it has begun, so that a failure until then has a status of its own."""
        with _ending_on_failure(answer, report):
            await unless_gone(http, answer.begun())
        events = _events(form.chunks(answer, request.include_usage), answer, report)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def _report(self, http: Request, request: ChatRequest, answer: Answer, id: str, began: float, status: int) -> None:
        """Counts and logs an answer that has ended, or was left."""
        run = answer.run
        self.metrics.answered(run)
        http.state.counted = True
        self.metrics.status(status)
        if answer.cause is not None and status >= 500:
            log.write("failure", id=id, error=log.place_of(answer.cause))
        tokens = {"prompt": run.counts.prompt, "cached": run.counts.reused, "generated": run.counts.generated}
        shown = {"messages": log.content_of(request.messages)} if self.options.log_content else {}
        seconds = round(monotonic() - began, 3)
        log.write("chat", id=id, status=status, finish=run.finish_reason, tokens=tokens, seconds=seconds, **shown)

    async def page(self, http: Request) -> Response:
        """`POST /v1/pages`: a page of a file as a picture; it takes a slot's turn, as all work on media does."""
        began = monotonic()
        deadline = Deadline(began + self.options.timeout)
        request = read_page_request(await body_of(http, self.options.max_body_bytes))
        work = partial(self._rendered, request, deadline)

        async def result() -> bytes:
            running = await self.slots.run(work, deadline.until - monotonic())
            running.add_done_callback(lambda done: done.cancelled() or done.exception())  # read, if the client leaves
            return await asyncio.shield(running)  # the turn ends with its thread

        try:
            page = await unless_gone(http, result())
        except ClientGone:
            deadline.give_up()
            raise
        http.state.counted = True
        self.metrics.status(200)
        log.write("page", status=200, bytes=len(page), seconds=round(monotonic() - began, 3))
        return Response(page, media_type="application/json")

    def _rendered(self, request: PageRequest, deadline: Deadline) -> bytes:
        """Returns the JSON of a page, which is made here since it has megabytes."""
        with interruptible(deadline.check):
            page = rendered(request, self._media(), self.slots.models[0].manifest.image)
            return msgspec.json.encode(page)

    async def home(self, _: Request) -> Response:
        """`GET /`."""
        return page_response()

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self.card()]})

    async def model(self, http: Request) -> Response:
        """`GET /v1/models/NAME`."""
        if http.path_params["name"] != self.options.model_name:
            raise ApiError(404, "there is no such model", param="model", code="model_not_found")
        return JSONResponse(self.card())

    async def health(self, _: Request) -> Response:
        """`GET /health`: 503 once the server ends, so that a balancer sends nothing more."""
        draining = self.slots.draining
        return JSONResponse({"status": "shutting down" if draining else "ok"}, 503 if draining else 200)

    async def numbers(self, _: Request) -> Response:
        """`GET /metrics`."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@contextlib.contextmanager
def _ending_on_failure(answer: Answer, report: Callable[[int], None]) -> Iterator[None]:
    """Cancels and reports an answer that fails, or whose client leaves, in the block."""
    try:
        yield
    except BaseException as error:
        answer.cancel()
        report(499 if isinstance(error, ClientGone) else as_api_error(error).status)
        raise


async def _events(chunks: AsyncIterator[Json], answer: Answer, report: Callable[[int], None]) -> AsyncIterator[str]:
    """Yields server-sent events; if the client leaves, the answer is cancelled."""
    status = 499  # unless the end is reached
    try:
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
            status = 200
        except Exception as error:
            failure = as_api_error(error)
            status = failure.status
            yield f"data: {json.dumps(failure.body(), ensure_ascii=False)}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        answer.cancel()
        report(status)


async def body_of(http: Request, most: int) -> bytes:
    """Returns the body of a request; raises ApiError if it is no JSON, larger than `most` bytes or slow to arrive.

    Only `application/json` is read: browsers send it to other sites only after these have agreed.
    """
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the content type must be application/json", code="wrong_content_type")
    too_large = ApiError(413, f"the body is larger than {most >> 20} MiB", code="body_too_large")
    length = http.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:18]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in http.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError as error:
        raise ApiError(408, "the body did not arrive in time", code="timeout") from error
    return bytes(body)


async def unless_gone(http: Request, wanted: Coroutine[Any, Any, Result]) -> Result:
    """Returns the result of a coroutine; if the client leaves first, cancels it and raises ClientGone."""
    task = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def create_app(model: Model, options: ServeOptions) -> Starlette:
    """Returns the application for a loaded model, which it closes when it ends; its state has the `service`."""
    service = Service(model, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with routed():
            yield
        service.slots.close()

    def route(path: str, endpoint: Endpoint, method: str = "GET") -> Route:
        return Route(path, partial(_answered, service, endpoint), methods=[method])

    routes = [
        route("/", service.home),
        route("/v1/chat/completions", service.chat, "POST"),
        route("/v1/pages", service.page, "POST"),
        route("/v1/models", service.models),
        route("/v1/models/{name:path}", service.model),
        route("/health", service.health),
        route("/metrics", service.numbers),
    ]
    hosts = None if options.allowed_hosts is None else (*LOOPBACK, *(name.lower() for name in options.allowed_hosts))
    guard = Middleware(Guard, hosts=hosts, key=options.api_key)
    app = Starlette(routes=routes, middleware=[*_shared(options), guard], lifespan=lifespan)
    app.add_exception_handler(HTTPException, _no_route)
    app.state.service = service
    return app


def _shared(options: ServeOptions) -> list[Middleware]:
    """Returns what lets pages of other sites use the server, if any may."""
    origins, headers = list(options.cors_origins), ["Authorization", "Content-Type"]
    allowed = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
    return [allowed] if origins else []


async def _answered(service: Service, endpoint: Endpoint, http: Request) -> Response:
    """Runs an endpoint; every exception becomes an answer in OpenAI's form, here and nowhere else."""
    http.state.counted = False
    try:
        response = await endpoint(http)
    except ClientGone:
        response = Response(status_code=499)
    except Exception as error:
        failure = as_api_error(error)
        if failure.code == "internal_error":
            log.write("failure", error=log.place_of(error))
        response = JSONResponse(failure.body(), failure.status, failure.headers)
    if not http.state.counted and endpoint in (service.chat, service.page) and response.status_code != 200:
        service.metrics.status(response.status_code)
        log.write("refused", path=http.url.path, status=response.status_code)
    return response


async def _no_route(http: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    problem = {404: "there is nothing at this path", 405: "this path has another method"}.get(
        status, "cannot be served"
    )
    return JSONResponse(ApiError(status, problem).body(), status)
