"""The contents of report.json: `Report` and its parts; see docs/report.md."""

from __future__ import annotations

from typing import Literal

import msgspec

from qvl_runtime.manifest import BoxNotation

from ..metrics.scores import METRICS
from ..trace.blame import Blame
from .machine import Machine
from .statistics import Interval


class Speed(msgspec.Struct, frozen=True):
    """A model's costs. `first_token_ms` covers only items with a new page; `peak_memory_mb` sums all processes.

    `tokens_per_second` is None if no answer has a token after the first.
    `image_tokens` and `pruned_tokens` are means per item, of those in the prompt and of those left out of it; None if
    they were not counted.
    """

    size_mb: float
    load_seconds: float
    first_token_ms: float
    tokens_per_second: float | None
    seconds_per_item: float
    peak_memory_mb: float
    image_tokens: float | None = None
    pruned_tokens: float | None = None


class Comparison(msgspec.Struct, frozen=True):
    """One metric of one task or group: both rates and the difference (other − reference) as fractions of one.

    `low` and `high` bound the difference at 95 %. `p_value` is from the paired permutation test. `items_needed` is the
    number of items that would show a loss of one point. If items are `too_few` (see `statistics.MIN_ITEMS`), the bounds
    are meaningless. `direction` is set for significant differences (see `significance`).
    """

    metric: str
    items: int
    reference: float
    other: float
    difference: float
    low: float
    high: float
    p_value: float
    items_needed: int
    mcnemar: float | None = None
    group: str = ""
    task: str = ""
    too_few: bool = False
    direction: Literal["", "worse", "better"] = ""

    def loss(self) -> Interval:
        """Returns the bounds of the loss: positive is worse."""
        if METRICS[self.metric].lower_is_better:
            return Interval(self.low, self.high)
        return Interval(-self.high, -self.low)


class Verdict(msgspec.Struct, frozen=True):
    """`outcome` over all tasks together, at 95 % confidence; `text` explains it."""

    outcome: Literal["identical", "no measurable loss", "loss", "gain", "too few items"]
    text: str


class Recommendation(msgspec.Struct, frozen=True):
    """The model to ship, a bundle or the reference itself, and the reason; `title` is null if there is none."""

    title: str | None
    path: str
    reason: str


class AgreementSummary(msgspec.Struct, frozen=True):
    """Along the reference's own answers: KL in nats per token, the share of tokens with the same top token, the ratio
    of perplexities, and the comparison of the free answers."""

    items: int
    tokens: int
    kl_mean: float
    kl_low: float
    kl_high: float
    kl_median: float
    kl_p99: float
    kl_max: float
    same_top: float
    perplexity_ratio: float
    same_answers: int
    diverging_items: int
    first_divergence_median: float | None
    empty_answers: int
    empty_answers_reference: int
    length_ratio: float


class PrefixSummary(msgspec.Struct, frozen=True):
    """Along the common beginnings of the reference's and a server's answers, the first different token included: the
    share of equal tokens, the mean KL over the tokens that the server lists, which is never above the true KL, and the
    mean absolute difference of the log probabilities of equal tokens, in nats."""

    items: int
    tokens: int
    same: float
    kl_mean: float
    logprob_difference: float


class AnswerAgreement(msgspec.Struct, frozen=True):
    """The answers that both models gave: how many are `identical`, and the `edit_distance` per character of the
    reference's. Of a server that says how likely tokens were also `prefix`."""

    items: int
    identical: int
    edit_distance: float
    prefix: PrefixSummary | None = None


class WorstItem(msgspec.Struct, frozen=True):
    """An item with a large loss: `loss` in the task's first metric, `kl` the mean along the reference's answer."""

    item: int
    image: str
    task: str
    kind: str
    prompt: str
    truth: str
    reference_answer: str
    answer: str
    metric: str
    reference: float
    other: float
    loss: float
    kl: float
    reference_resized: tuple[int, int]
    resized: tuple[int, int]
    error: str = ""


class ModelReport(msgspec.Struct, frozen=True):
    """A model that has answered: its description and costs; PyTorch has no `family`."""

    title: str
    path: str
    precisions: str
    family: str
    speed: Speed
    answered: int
    failed: int


class ReferenceReport(ModelReport, frozen=True):
    """The reference, with its `rates` by task and metric; PyTorch has no notation of `boxes`."""

    boxes: BoxNotation | None
    rates: dict[str, dict[str, float]]


class BundleReport(ModelReport, frozen=True):
    """One bundle compared with the reference, by task and metric; primary metrics also by kind and answer length."""

    boxes: BoxNotation
    verdict: Verdict
    scores: list[Comparison]
    by_kind: list[Comparison]
    by_length: list[Comparison]
    agreement: AgreementSummary | None
    worst: list[WorstItem]
    answers: AnswerAgreement | None = None
    is_server: bool = False


class Report(msgspec.Struct, frozen=True):
    """Everything a report shows; see docs/report.md."""

    producer: str
    created: str
    data: str
    data_sha256: str
    items: int
    of_items: int
    tasks: dict[str, int]
    reference: ReferenceReport
    bundles: list[BundleReport]
    noise: AgreementSummary | None
    blame: dict[str, Blame] = {}
    use_generation_config: bool = False
    recommendation: Recommendation | None = None
    machine: Machine | None = None
