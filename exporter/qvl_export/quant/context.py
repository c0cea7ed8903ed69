"""The inputs of a calibration: the model, the pages, the options, and the bundle that is being written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from qvl_runtime.common.counted import counted
from qvl_runtime.manifest import Calibration, Manifest
from qvl_runtime.prune.rule import Rule
from qvl_runtime.templates.chat import ChatTemplate

from ..checkpoint.directory import Checkpoint
from ..checkpoint.safetensors_reader import Tensor
from ..common.fingerprint import fingerprint, stamps
from ..common.progress import Report
from ..errors import ExportError
from ..families.spec import ModelSpec
from ..jobs.pool import Pool
from ..qtensor import QuantFormat, table_format
from ..targets import Target
from . import schemes
from .calibration.resume import IMAGES, directory_of
from .calibration_data.prompts import Sampler
from .calibration_data.selection import Pages
from .calibration_data.stored_pages import StoredPages
from .limit import Limit
from .precision import INT4, INT8, MIXED


@dataclass(frozen=True)
class CalibrationSetup:
    """The model, the scheme of each graph by name (`vision`, `llm`, `llm_decode`), their options, and the pages.

    `tensors` are the checkpoint's tensors, rotated if the plan says so. Pages run on the machines of `pool`, or in this
    process if it is None. `out` is the path of the bundle. `prune` is the rule by which blocks of the pages are left
    out.
    """

    spec: ModelSpec
    targets: Mapping[str, Target]
    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    out: Path
    precisions: Mapping[str, str]
    options: schemes.Options
    pages: Pages
    limit: Limit | None = None
    pool: Pool | None = None
    prune: Rule | None = None

    def __post_init__(self) -> None:
        """Raises ExportError for options that the model does not support, before hours of calibration."""
        if self.spec.text.moe and MIXED in self.precisions.values():
            raise ExportError("the sensitivity of experts cannot be measured", fix=f"give --precision {INT4} or {INT8}")
        if "llm" in self.precisions and self.tables:
            table_format(self.spec.text.hidden_size)

    @property
    def work(self) -> Path:
        """The work directory, which keeps finished work."""
        return directory_of(self.out)

    @property
    def tables(self) -> tuple[str, ...]:
        """The embedding, and the head if it is a separate tensor; empty if the target keeps tables in float."""
        if not self.targets["llm"].quantized_tables:
            return ()
        return ("model.embed_tokens",) if self.spec.text.tied else ("model.embed_tokens", "lm_head")

    @property
    def table_format(self) -> QuantFormat:
        """The quantization format of the tables."""
        return table_format(self.spec.text.hidden_size)

    @cached_property
    def stored_pages(self) -> StoredPages:
        """The questions about the pages, which are read once per export."""
        return StoredPages(self.pages, self.work / IMAGES)

    def calibration(self, report: Report) -> Calibration:
        """The manifest's entry for the pages."""
        return self.stored_pages.calibration(report)


@dataclass(frozen=True)
class CalibrationContext:
    """A setup, and the unfinished bundle that its pages run through.

    `manifest` describes the current contents of `directory`: the text files, and the graphs of earlier towers.
    """

    setup: CalibrationSetup
    manifest: Manifest
    directory: Path
    report: Report

    @cached_property
    def sampler(self) -> Sampler:
        """Builds prompts from the pages, with the bundle's own tokenizer and template."""
        source = (self.directory / "chat_template.jinja").read_text("utf-8")
        template = ChatTemplate(source, self.directory, self.manifest.special_tokens)
        tokenizer = Tokenizer.from_file(str(self.directory / "tokenizer.json"))
        return Sampler(self.setup.stored_pages, self.report, self.manifest, template, tokenizer, self.setup.prune)

    @property
    def page_summary(self) -> str:
        """Number and sources of the pages, counted as in the manifest: blank and repeated pages do not count."""
        count = self.setup.calibration(self.report).pages
        return f"{counted(count, 'page')} of {', '.join(self.setup.pages.names)}"

    @property
    def key(self) -> dict[str, object]:
        """Everything that must be equal for a calibration to be resumed."""
        return {**self.measured_key, "limit": repr(self.setup.limit)}

    @property
    def measured_key(self) -> dict[str, object]:
        """Everything that sensitivities depend on; the limit is not part of it."""
        setup, described = self.setup, msgspec.to_builtins(self.manifest)
        for field in ("created", "options"):  # the effect of options is in the other keys
            described["provenance"].pop(field, None)
        return {
            "bundle": described,
            "checkpoint": stamps(setup.checkpoint.files),
            "pages": setup.calibration(self.report).sha256,
            "schemes": [repr(setup.options), dict(setup.precisions)],
            "targets": repr(setup.targets),
            "prune": str(setup.prune),
            "made_by": fingerprint(),
        }
