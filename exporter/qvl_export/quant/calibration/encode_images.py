"""Images encoded on the machines of a cluster; one runs `python -m qvl_export.quant.calibration.encode_images`.

Like `spread`, with the vision graph of a bundle in the making instead of a stage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import msgspec
import numpy as np

from qvl_runtime.manifest import Manifest
from qvl_runtime.positions import Grid
from qvl_runtime.preprocess import Patches

from ...jobs.pool import Pool
from ...jobs.worker import serve
from .cluster import shared, shares, threads_each
from .work_dir import Floats, Sample, StageRecord, Work

MODULE = "qvl_export.quant.calibration.encode_images"


class Job(msgspec.Struct, frozen=True):
    """Shards of images through the vision graph in `bundle`; a shard is its first image and the one after its last."""

    directory: str
    bundle: str
    manifest: Manifest
    shards: list[tuple[int, int]]
    threads: int


@dataclass(frozen=True)
class Encoded:
    """Features of images in the order they will be asked for, see `samples.Encoder`."""

    features: Iterator[Floats]

    def encode(self, pixel_values: Floats, grid: Grid) -> Floats:
        """Those of the next image."""
        return next(self.features)


def encode(pool: Pool, work: Work, images: Iterable[Patches], bundle: Path, manifest: Manifest) -> Iterator[Floats]:
    """Features [1 + D, tokens, H] of one image after another; all are encoded when the first is asked for."""
    work.begin(Sample(image.pixel_values, {"grid": np.array(astuple(image.grid))}) for image in images)
    if work.record(0) is None:
        threads, place = threads_each(pool), (str(work.directory.resolve()), str(bundle.resolve()))
        jobs = [Job(*place, manifest, share, threads) for share in shares(pool, work.pages)]
        pool.run(MODULE, jobs, threads, lambda _: None)
        work.finish(0, StageRecord({}, {}), ())
    yield from (sample.hidden for sample in work.samples(1))


def run(job: Job) -> None:
    """Do a job, a line for every shard."""
    from qvl_runtime.sessions.cpu import open_vision  # where it cannot be imported, `serve` says so

    work = shared(job.directory)
    vision = open_vision(Path(job.bundle), job.manifest, job.threads)
    for first, last in job.shards:
        pages = range(first, last)
        for page, sample in zip(pages, work.samples(0, pages), strict=True):
            work.keep(1, page, vision.encode(sample.hidden, Grid(*sample.feeds["grid"].tolist())))
        print(first, flush=True)


if __name__ == "__main__":
    sys.exit(serve(Job, run))
