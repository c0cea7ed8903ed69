"""What `/metrics` tells Prometheus; nothing of it depends on what was asked or answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..answers.generate import GenerationStats

if TYPE_CHECKING:
    from .slots import Slots

FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
"""Seconds."""
SPEED = (1, 2, 5, 10, 20, 50, 100, 200)
"""Tokens per second."""


class Metrics:
    """The numbers of one server."""

    def __init__(self, slots: Slots) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Answered requests by HTTP status.", "status")
        self._tokens = self._counter(
            "tokens", "Tokens: prompt, cached (a part of prompt), image and generated.", "kind"
        )
        self._first = self._histogram("time_to_first_token_seconds", "From the start of the vision tower.", FIRST_TOKEN)
        self._speed = self._histogram("tokens_per_second", "Speed of generation after the first token.", SPEED)
        self._registry.register(_Now(slots))
        ProcessCollector(registry=self._registry)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"qvl_{name}", text, (label,), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"qvl_{name}", text, registry=self._registry, buckets=buckets)

    def status(self, status: int) -> None:
        """Counts a request that was answered with this status; 499 if its client left."""
        self._requests.labels(str(status)).inc()

    def answered(self, run: GenerationStats) -> None:
        """Counts the tokens and times of an answer."""
        counts, times = run.counts, run.times
        kinds = {"prompt": counts.prompt, "cached": counts.reused, "image": counts.image, "generated": counts.generated}
        for kind, count in kinds.items():
            self._tokens.labels(kind).inc(count)
        if counts.generated:
            self._first.observe(times.first_token)
        if run.tokens_per_second is not None:
            self._speed.observe(run.tokens_per_second)

    def text(self) -> bytes:
        """Returns all numbers in Prometheus's text format."""
        return generate_latest(self._registry)


class _Now:
    """Numbers that are read when they are asked for."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        features = self._slots.models[0].features
        yield GaugeMetricFamily("qvl_requests_running", "Requests with a slot.", self._slots.running)
        yield GaugeMetricFamily("qvl_requests_waiting", "Requests in the queue.", self._slots.waiting)
        yield CounterMetricFamily("qvl_image_cache_hits", "Image features that were cached.", value=features.hits)
        yield CounterMetricFamily("qvl_image_cache_misses", "Image features that were computed.", value=features.misses)
