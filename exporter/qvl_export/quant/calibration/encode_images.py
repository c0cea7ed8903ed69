"""Encodes images on a cluster; each job runs `python -m qvl_export.quant.calibration.encode_images`.

Works like `cluster`, with the vision graph of an unfinished bundle instead of a stage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import msgspec
import numpy as np

from qvl_runtime.answers.encode import TowerInput
from qvl_runtime.manifest import Manifest
from qvl_runtime.positions import Grid

from ...common.arrays import Floats, Ints
from ...jobs.pool import Pool
from ...jobs.worker import run_job
from .cluster import divide_shards, open_work_dir, threads_per_machine
from .work_dir import Feeds, Sample, StageRecord, Work

MODULE = "qvl_export.quant.calibration.encode_images"


class EncodeJob(msgspec.Struct, frozen=True):
    """Encodes `shards`, each given as its first image and the one after its last, with the vision graph in `bundle`."""

    directory: str
    bundle: str
    manifest: Manifest
    shards: list[tuple[int, int]]
    threads: int


@dataclass(frozen=True)
class Encoded:
    """Features of images in the order in which `prompts.Encoder.encode` is called for them."""

    features: Iterator[Floats]

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Returns the features of the next image."""
        return next(self.features)


def encode(pool: Pool, work: Work, images: Iterable[TowerInput], bundle: Path, manifest: Manifest) -> Iterator[Floats]:
    """Yields features [1 + D, tokens, H] per image; all images are encoded on the first `next`."""
    work.begin(Sample(image.pixel_values, _grid_feeds(image)) for image in images)
    if work.record(0) is None:
        threads, paths = threads_per_machine(pool), (str(work.directory.resolve()), str(bundle.resolve()))
        jobs = [EncodeJob(*paths, manifest, part, threads) for part in divide_shards(pool, work.pages)]
        pool.run(MODULE, jobs, threads, lambda _: None)
        work.finish(0, StageRecord({}, {}), ())
    yield from (sample.hidden for sample in work.samples(1))


def _grid_feeds(image: TowerInput) -> Feeds:
    """Returns the grid of an image, and the cells that its patches are in if they are not all."""
    return {"grid": np.array(astuple(image.grid)), **({} if image.cells is None else {"cells": image.cells})}


def run(job: EncodeJob) -> None:
    """Runs a job and prints one line per finished shard."""
    from qvl_runtime.sessions.cpu import open_vision  # imported here so that `run_job` reports a failing import

    work = open_work_dir(job.directory)
    vision = open_vision(Path(job.bundle), job.manifest, job.threads)
    for first, last in job.shards:
        pages = range(first, last)
        for page, sample in zip(pages, work.samples(0, pages), strict=True):
            grid = Grid(*sample.feeds["grid"].tolist())
            work.keep(1, page, vision.encode(sample.hidden, grid, sample.feeds.get("cells")))
        print(first, flush=True)


if __name__ == "__main__":
    sys.exit(run_job(EncodeJob, run))
