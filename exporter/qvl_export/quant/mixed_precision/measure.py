"""Measures on pages how far the precision of each linear changes the answers.

For each stage, the divergence of the answers is measured with all its linears in the coarsest scheme and everything
else in float, which takes one more pass through the rest of the network. Within the stage it is divided in proportion
to the noise that each linear alone, in each scheme, adds to the stage's output: the energies of small independent
errors add up, and the divergence of distributions grows with the energy of the error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ...common.arrays import Floats
from ...common.kl import divergence, log_softmax
from ...common.log import log
from ...common.progress import Report
from ..calibration.layer_session import through
from ..calibration.layerwise import collect_statistics, quantize_linears
from ..calibration.shards import LocalRunner
from ..calibration.tower import Tower
from ..calibration.work_dir import Sample, StageRecord, Work
from .hidden_states import FLOAT_MODEL, LinearNoise, Step, Variants
from .sensitivity_table import Sensitivity
from .single_linear import Candidates, StageNoise, open_stage, smooth_stage

TINY = 1e-30
NOISE_PAGES = 2
"""Pages on which the noise of single linears is measured."""


@dataclass(frozen=True)
class Chain:
    """Both towers over the same pages; `head` returns logits, `splice` puts image features into the decoder's input."""

    vision: Tower
    llm: Tower
    head: Callable[[Floats, Sample], Floats]
    splice: Callable[[Floats, Sample], Floats]


@dataclass
class Pace:
    """Seconds that stages took: `measuring` is the same for every stage, `advancing` grows by one state per stage."""

    stages: int = 0
    states: int = 0
    measuring: float = 0.0
    advancing: float = 0.0

    def add(self, measuring: float, advancing: float, states: int) -> None:
        """Adds a finished stage, through which `states` states advanced."""
        self.stages, self.states = self.stages + 1, self.states + states
        self.measuring, self.advancing = self.measuring + measuring, self.advancing + advancing

    def left(self, stages: int, states: int) -> str:
        """Estimates the time for `stages` more stages; `states` states advance through the first of them."""
        runs = sum(range(states, states + stages))
        seconds = self.measuring / self.stages * stages + self.advancing / self.states * runs
        return f"about {seconds:.0f} s left"


def measure(
    chain: Chain, works: Mapping[str, Work], schemes: Mapping[str, Candidates], report: Report
) -> list[Sensitivity]:
    """Returns every linear's cost in each of its tower's `schemes`; `works` hold the samples of both towers.

    A killed run resumes from the work directories.
    """
    variants, steps = Variants(works["vision"].directory / "variants"), 0
    for tower in (chain.vision, chain.llm):
        work = works[tower.name]
        if len(variants.steps) == steps:
            _begin_tower(chain, tower, work, variants)
        _measure_tower(tower, work, variants, schemes[tower.name], len(variants.steps) - steps - 1, report)
        steps += 1 + len(tower.stages)
    return _share_out(variants.steps, _divergences(chain, works["llm"], variants))


def _begin_tower(chain: Chain, tower: Tower, work: Work, variants: Variants) -> None:
    """A separate step that makes the tower's inputs: from pages for the vision tower, else from its image features."""
    for page, sample in enumerate(work.samples(0)):
        if tower is chain.vision:
            variants.save(FLOAT_MODEL, page, sample.hidden)
        else:
            for name in variants.names:
                variants.advance(name, page, sample, chain.splice)
    variants.finish(Step(tower.name, "", {}))


def _measure_tower(
    tower: Tower, work: Work, variants: Variants, schemes: Candidates, done: int, report: Report
) -> None:
    """Measures all stages except the first `done`."""
    pace = Pace()
    for number, name in list(enumerate(tower.stages))[done:]:
        began = time.monotonic()
        linears = measure_stage(tower, name, work, variants, schemes)
        measured = time.monotonic()
        _advance(tower, name, work, variants)
        pace.add(measured - began, time.monotonic() - measured, len(variants.names))
        variants.finish(Step(name, next(iter(schemes)), linears))
        log.debug("sensitivity measured: %s, %.3f s", name, time.monotonic() - began)
        left = pace.left(len(tower.stages) - number - 1, len(variants.names))
        report(f"{tower.name}: sensitivity of {number + 1} of {len(tower.stages)} stages measured, {left}")


def measure_stage(
    tower: Tower, name: str, work: Work, variants: Variants, schemes: Candidates
) -> dict[str, LinearNoise]:
    """Saves the states after a stage with all linears in the coarsest scheme; returns the noise of its linears."""
    stage = tower.build(name, {})
    coarsest = replace(tower, scheme=lambda _: next(iter(schemes.values())))
    runner = LocalRunner(lambda: _float_samples(work, variants), work.directory)
    statistics, _ = collect_statistics(coarsest, stage, work, runner)
    float_session = open_stage(tower, name, StageRecord({}, {}), work)
    smoothed = smooth_stage(coarsest, stage, statistics)
    record = quantize_linears(coarsest, stage, smoothed.statistics, dict(smoothed.tensors), work)
    session = open_stage(coarsest, name, record, work)
    for page, sample in enumerate(_float_samples(work, variants)):
        variants.save(name, page, through(session, sample))
    samples = list(islice(_float_samples(work, variants), NOISE_PAGES))
    exact = [through(float_session, sample) for sample in samples]
    return StageNoise(tower, stage, work, samples, exact).linears(statistics, schemes)


def _advance(tower: Tower, name: str, work: Work, variants: Variants) -> None:
    """Runs a stage in float on all earlier states."""
    session = open_stage(tower, name, StageRecord({}, {}), work)

    def run(hidden: Floats, sample: Sample) -> Floats:
        return through(session, sample._replace(hidden=hidden))

    for page, sample in enumerate(work.samples(0)):
        for variant in variants.names:
            variants.advance(variant, page, sample, run)


def _float_samples(work: Work, variants: Variants) -> Iterator[Sample]:
    """Yields the float model's samples, page by page."""
    for page, sample in enumerate(work.samples(0)):
        yield sample._replace(hidden=variants.load(FLOAT_MODEL, page))


def _divergences(chain: Chain, work: Work, variants: Variants) -> dict[str, float]:
    """Mean KL(float ‖ variant) over the tokens of all answers, per variant."""
    total: dict[str, list[float]] = {name: [] for name in variants.names}
    for page, sample in enumerate(work.samples(0)):
        exact = log_softmax(chain.head(variants.load(FLOAT_MODEL, page), sample))
        for name in variants.names:
            other = log_softmax(chain.head(variants.load(name, page), sample))
            total[name].extend(divergence(exact, other).tolist())
    return {name: float(np.mean(found)) for name, found in total.items()}


def _share_out(steps: Sequence[Step], divergences: Mapping[str, float]) -> list[Sensitivity]:
    """Divides each stage's divergence over its linears in proportion to the energy of their noise."""
    found = []
    for step in steps:
        total = sum(linear.noise.get(step.coarsest, 0.0) for linear in step.linears.values())
        for name, linear in step.linears.items():
            divergence = divergences[step.name]
            kl = {precision: divergence * noise / max(total, TINY) for precision, noise in linear.noise.items()}
            found.append(Sensitivity(name, linear.shape, kl, linear.formats))
    return found
