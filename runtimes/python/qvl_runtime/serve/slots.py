"""Slots: forks of one model that answer at the same time, and a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..model import Model
from ..prompts.prompt import Prompt
from ..requests.errors import ApiError

Result = TypeVar("Result")


class Slots:
    """`parallel` forks of a model; at most `waiting` requests wait for one, in the order of their arrival.

    Everything but `use` is called in the event loop.
    """

    def __init__(self, model: Model, parallel: int, waiting: int) -> None:
        self.models = [model, *(model.fork() for _ in range(parallel - 1))]
        self._free, self._lock = list(self.models), threading.Lock()  # the one that was used longest ago is first
        self._tickets, self._most = asyncio.Semaphore(parallel), waiting
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="slot")
        self.waiting, self.running, self._draining = 0, 0, False
        self._seconds = 1.0  # of a request, smoothed

    @property
    def draining(self) -> bool:
        """Whether the server ends and takes no more requests."""
        return self._draining

    def drain(self) -> None:
        """Refuses new requests and those that wait; what runs goes on."""
        self._draining = True
        for _ in range(self.waiting):
            self._tickets.release()

    async def run(self, work: Callable[[], Result], seconds: float) -> asyncio.Future[Result]:
        """Starts `work` in a thread once it has a ticket, which is returned when the work has ended.

        Raises ApiError 429 if too many requests wait, 503 if none became free within `seconds` or the server ends.
        """
        await self._ticket(seconds)
        loop = asyncio.get_running_loop()
        self.running += 1
        future = loop.run_in_executor(self._threads, work)
        began = loop.time()
        future.add_done_callback(lambda _: self._ended(loop.time() - began))
        return future

    async def _ticket(self, seconds: float) -> None:
        self._check_open()
        if self._tickets.locked() and self.waiting >= self._most:
            wait = min(60, math.ceil(self._seconds * (self.waiting + 1) / len(self.models)))
            raise ApiError(429, f"{self.waiting} requests wait already", code="overloaded", headers=_after(wait))
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._tickets.acquire()
        except TimeoutError as error:
            raise ApiError(503, "no slot became free in time", code="timeout", headers=_after(1)) from error
        finally:
            self.waiting -= 1
        self._check_open()

    def _check_open(self) -> None:
        if self._draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers=_after(5))

    def _ended(self, seconds: float) -> None:
        self.running -= 1
        self._seconds += (seconds - self._seconds) / 8
        self._tickets.release()

    @contextlib.contextmanager
    def use(self, prompt: Prompt) -> Iterator[Model]:
        """Gives the free model that has most of a prompt's beginning, or a copy of what another one has of it.

        Its caller runs in a thread of `run`, so that one is free.
        """
        with self._lock:
            model = max(self._free, key=lambda free: free.decoder.shared(prompt))
            self._free.remove(model)
        try:
            for other in self.models:
                model.decoder.adopt(other.decoder, prompt)
            yield model
        finally:
            with self._lock:
                self._free.append(model)

    def close(self) -> None:
        """Waits for the threads, and frees the models."""
        self._threads.shutdown()
        for model in self.models:
            model.close()


def _after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(max(1, seconds))}
