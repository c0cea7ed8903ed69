"""Runs the processes that answer an evaluation set, and finds the items that they still have to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_runtime.common.counted import counted

from ...common.log import log
from ...common.progress import Progress
from ...jobs.pool import Pool, ThisMachine
from ..sets.dataset import EvalSet
from .models import Model
from .records import Cost, Records
from .worker import AnswerJob

WORKER_MODULE = "qvl_export.evaluate.answers.worker"


@dataclass(frozen=True)
class AnswerRunner:
    """Runs `workers` processes of `threads` threads each; their records are in `directory`.

    Servers are asked from this machine, whatever the `pool`.
    """

    directory: Path
    pool: Pool
    progress: Progress
    workers: int
    threads: int
    max_new_tokens: int | None
    template_args: dict[str, Any]
    use_generation_config: bool = False

    @property
    def scratch(self) -> Path:
        """The directory of the reference's distributions."""
        return self.directory / "scratch"

    def missing(self, name: str, dataset: EvalSet) -> int:
        """Returns the number of items without an answer in the records `name`."""
        records = Records(self.directory, name)
        return sum(records.answered(item.index) is None for item in dataset.items())

    def answer(
        self,
        model: Model,
        name: str,
        dataset: EvalSet,
        threads: int,
        reference: bool = False,
        even_if_complete: bool = False,
        title: str = "",
    ) -> None:
        """Answers the items that are missing in the records `name`.

        A `reference` also writes its distributions; with `even_if_complete` it does so if no answers are missing.
        `title` names the run in progress lines, by default like the model.
        """
        missing = self.missing(name, dataset)
        log.debug("answers of %s: %d of %d items missing in %s", model.title, missing, dataset.count, self.directory)
        if not missing and not even_if_complete:
            return
        self.progress.stage(
            f"{title or model.title}: {missing:,} of {counted(dataset.count, 'item')} to answer", missing
        )
        self.scratch.mkdir(parents=True, exist_ok=True)
        Cost.remove_beyond(self.directory, name, self.workers)
        jobs = [self._job(model, name, dataset, threads, reference, rank) for rank in range(self.workers)]
        pool = self.pool if model.endpoint is None else ThisMachine()  # a cluster has neither its key nor its localhost
        pool.run(WORKER_MODULE, jobs, threads, self.progress.advance)

    def _job(self, model: Model, name: str, dataset: EvalSet, threads: int, reference: bool, rank: int) -> AnswerJob:
        return AnswerJob(
            model=str(model.path.resolve()),
            engine=model.engine,
            data=str(dataset.directory.resolve()),
            total=dataset.total,
            digest=dataset.digest,
            chosen=dataset.chosen,
            records=str(self.directory.resolve()),
            name=name,
            scratch=str(self.scratch.resolve()),
            reference=reference,
            threads=threads,
            max_new_tokens=self.max_new_tokens or model.limit,
            use_generation_config=self.use_generation_config,
            rank=rank,
            workers=self.workers,
            template_args=self.template_args,
            prune=model.prune,
            endpoint=model.endpoint,
        )
