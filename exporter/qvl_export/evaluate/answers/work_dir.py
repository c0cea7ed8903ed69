"""The work directory of a comparison: answers item by item, from which a killed run resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.log import log
from ...common.progress import Progress
from ...jobs.pool import Pool
from ..sets.dataset import EvalSet
from .models import Model
from .records import Cost, Records
from .worker import Job

ANSWERING = "qvl_export.evaluate.answers.worker"


@dataclass(frozen=True)
class Area:
    """The directory of the answers to one set, and the `workers` processes of `threads` threads that answer it."""

    work: Path
    pool: Pool
    progress: Progress
    workers: int
    threads: int
    max_new_tokens: int | None
    template_args: dict[str, Any]
    use_generation_config: bool = False

    @property
    def scratch(self) -> Path:
        return self.work / "scratch"

    def missing(self, name: str, chosen: EvalSet) -> int:
        """Returns the number of items not answered yet."""
        records = Records(self.work, name)
        return sum(records.answered(item.index) is None for item in chosen.items())

    def answer(
        self,
        model: Model,
        name: str,
        chosen: EvalSet,
        reference: bool,
        threads: int,
        again: bool,
        what: str = "",
    ) -> None:
        """Answers the missing items; `again` runs even if none are missing, for the reference's distributions."""
        missing = self.missing(name, chosen)
        log.debug("answers of %s: %d of %d items to answer, in %s", model.title, missing, chosen.count, self.work)
        if not missing and not again:
            return
        self.progress.stage(f"{what or model.title}: {missing} of {chosen.count} items to answer", missing)
        self.scratch.mkdir(parents=True, exist_ok=True)
        Cost.drop(self.work, name, self.workers)
        jobs = [
            Job(
                model=str(model.path.resolve()),
                engine=model.engine,
                data=str(chosen.directory.resolve()),
                total=chosen.total,
                digest=chosen.digest,
                chosen=chosen.chosen,
                records=str(self.work.resolve()),
                name=name,
                scratch=str(self.scratch.resolve()),
                reference=reference,
                threads=threads,
                max_new_tokens=self.max_new_tokens,
                use_generation_config=self.use_generation_config,
                rank=rank,
                workers=self.workers,
                template_args=self.template_args,
            )
            for rank in range(self.workers)
        ]
        self.pool.run(ANSWERING, jobs, threads, self.progress.advance)
