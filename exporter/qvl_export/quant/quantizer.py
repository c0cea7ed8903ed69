"""Both towers quantized as a plan asks, on the same pages, and kept beside the bundle until it is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.manifest import Calibration, Manifest

from ..checkpoint import Checkpoint
from ..errors import ExportError
from ..families.spec import ModelSpec
from ..fingerprint import fingerprint, stamps
from ..processes import Pool
from ..safetensors_file import Tensor
from ..targets import Target
from . import schemes
from .pages import Pages, Record
from .qtensor import Layout, check_table
from .question import Report
from .samples import Encoder, Sampler
from .saved import SavedLinear
from .search import Limit
from .sensitivities import Sensitivity
from .threads import thread_limit
from .work import Floats, Quantized, Work

FEATURES = "features"
"""What a cluster made of the images, in the work directory."""
MIXED = "mixed"
"""A precision of its own for every linear, see `mixed`."""
TABLE_BITS = 8
"""Of the embedding and the head: logits are the last place to save bits, and the table is read a row at a time."""


@dataclass(frozen=True)
class Quantizer:
    """The scheme of each graph by name (`vision`, `llm`, `llm_decode`), their options, and the calibration pages.

    `tensors` are the checkpoint's, perhaps in another basis. Pages are run on the machines of `pool`, or here.
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
    vision_weight: float = 1.0
    pool: Pool | None = None
    _record: list[Calibration] = field(default_factory=list)
    _chosen: dict[str, schemes.Scheme | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ExportError for what does not go with the model, before hours of calibration."""
        if self.spec.text.moe and MIXED in self.precisions.values():
            raise ExportError("the sensitivity of experts cannot be measured", fix="give --precision int4 or int8")
        if "llm" in self.precisions and self.tables:
            check_table(self.spec.text.hidden_size, self.table_layout)

    @property
    def work(self) -> Path:
        """What is done so far lies beside the bundle it is for, and survives a kill, see `resuming`."""
        return self.out.with_name(f".{self.out.name}.calibration")

    def tower(self, name: str, draft: Manifest, directory: Path, before: Quantized, report: Report) -> Quantized:
        """A tower as the plan asks for it: quantized, or as it is; `before` is the one before it."""
        if name not in self.precisions:
            return Quantized()
        if name == "vision":
            return self._vision(draft, directory, report)
        return self._llm(name, draft, directory, before.cache_scales, report)

    def _vision(self, draft: Manifest, directory: Path, report: Report) -> Quantized:
        """The vision tower, calibrated on the pages as `draft` and the text files in `directory` say.

        Raises ExportError for pages that cannot be used and for activations that are not finite.
        """
        from . import calibrate  # torch is only needed from here on
        from .towers import vision_tower

        scheme = self._scheme("vision", draft, directory, report)
        sampler, target = self.sampler(draft, directory, report), self.targets["vision"]
        work = Work(self.work / "vision", self.key(draft, report))
        report(f"calibrating vision on {self._told(report)}")
        work.begin(sampler.patches())
        tower = vision_tower(self.spec, target, self.tensors, scheme)
        if self.precisions["vision"] == MIXED:
            tower = replace(tower, per_tensor=False)  # which linears are is part of what was chosen
        return calibrate.quantize_tower(tower, work, report, self.pool)

    def _llm(
        self, name: str, draft: Manifest, directory: Path, cache_scales: Mapping[str, Floats], report: Report
    ) -> Quantized:
        """The language model, calibrated on what the vision graph in `directory` gives it, and its tables.

        `cache_scales` are those of the graph that it shares a KV cache with.
        """
        from . import calibrate
        from .towers import llm_tower

        sampler, target = self.sampler(draft, directory, report), self.targets[name]
        tensors = self.tensors
        work = Work(self.work / name, self.key(draft, report))
        report(f"calibrating {name} on {self._told(report)}")
        work.begin(sampler.tokens(self._vision_of(draft, directory, report), tensors["model.embed_tokens.weight"]))
        shutil.rmtree(self.work / FEATURES, ignore_errors=True)
        tower = llm_tower(self.spec, target, tensors, self._scheme(name, draft, directory, report))
        moe = self.spec.text.moe
        chosen = moe.experts_per_token if moe and self.options.gptq_experts else 0
        tower = replace(
            tower, name=name, vision_weight=self.vision_weight, cache_scales=cache_scales, experts_per_token=chosen
        )
        found = calibrate.quantize_tower(tower, work, report, self.pool)
        tables = {table: self._table(table, work.directory) for table in self.tables}
        return replace(found, linears={**found.linears, **tables})

    def _vision_of(self, draft: Manifest, directory: Path, report: Report) -> Encoder:
        """The vision graph in `directory`; the machines of a cluster encode the images before they are asked for."""
        from qvl_runtime.sessions.cpu import open_vision

        if self.pool is None:
            return open_vision(directory, draft, thread_limit())
        from .encoding import Encoded, encode

        work = Work(self.work / FEATURES, self.key(draft, report))
        images = self.sampler(draft, directory, report).images()
        return Encoded(encode(self.pool, work, images, directory, draft))

    def _scheme(
        self, tower: str, draft: Manifest, directory: Path, report: Report
    ) -> Callable[[str], schemes.Scheme | None]:
        if self.precisions[tower] != MIXED:
            scheme = schemes.find(self.precisions[tower], self.options)
            return lambda _: scheme
        from . import mixed

        if not self._chosen:
            self._chosen.update(mixed.choose(self, draft, directory, report))
        return self._chosen.__getitem__

    def sensitivities(self, draft: Manifest, directory: Path, report: Report) -> list[Sensitivity]:
        """What each precision of each linear costs, see `sensitivity`."""
        from . import mixed

        return mixed.sensitivities(self, draft, directory, report)

    @property
    def tables(self) -> tuple[str, ...]:
        """The embedding, and the head where it is another tensor; none where the target wants them float."""
        if not self.targets["llm"].quantized_tables:
            return ()
        return ("model.embed_tokens",) if self.spec.text.tied else ("model.embed_tokens", "lm_head")

    def _table(self, name: str, directory: Path) -> SavedLinear:
        from . import rows

        tensor = self.tensors[f"{name}.weight"]
        return rows.quantize_rows(name, tensor, (tensor.shape[0], tensor.shape[1]), self.table_layout, directory)

    @property
    def table_layout(self) -> Layout:
        return Layout(TABLE_BITS, self.options.block_size)

    def calibration(self, report: Report) -> Calibration:
        """What the manifest says of the pages; read the first time it is asked for."""
        if not self._record:
            record = Record(self.pages.names)
            for question in self.pages.questions(report):
                record.add(question)
            self._record.append(record.calibration())
        return self._record[0]

    def _told(self, report: Report) -> str:
        """Of the pages, as the manifest will count them: blank ones and repeated ones do not."""
        pages = self.calibration(report).pages
        return f"{pages} page{'s' if pages != 1 else ''} of {', '.join(self.pages.names)}"

    def sampler(self, draft: Manifest, directory: Path, report: Report) -> Sampler:
        template = ChatTemplate((directory / "chat_template.jinja").read_text("utf-8"), directory, draft.special_tokens)
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        return Sampler(self.pages, report, draft, template, tokenizer)

    def key(self, draft: Manifest, report: Report) -> dict[str, object]:
        """What must be the same for a killed calibration to go on."""
        wanted = [repr(self.limit), self.vision_weight]
        return {**self.measured_key(draft, report), "wanted": wanted}

    def measured_key(self, draft: Manifest, report: Report) -> dict[str, object]:
        """What sensitivities depend on: neither on a limit nor on what image tokens count."""
        described = msgspec.to_builtins(draft)
        for said in ("created", "options"):  # what options come to is told apart
            described["provenance"].pop(said, None)
        return {
            "bundle": described,
            "checkpoint": stamps(self.checkpoint.files),
            "pages": self.calibration(report).sha256,
            "schemes": [repr(self.options), dict(self.precisions)],
            "targets": repr(self.targets),
            "made_by": fingerprint(),
        }
