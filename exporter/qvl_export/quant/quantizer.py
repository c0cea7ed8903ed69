"""Both towers quantized as a plan asks, on the same pages, and kept beside the bundle until it is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.manifest import Manifest, sha256

from ..checkpoint import Checkpoint
from ..families.spec import ModelSpec
from ..graph.stages import decoder_stage, decoder_stages, vision_stage, vision_stages
from ..safetensors_file import Tensor
from ..targets import Target
from . import schemes
from .qtensor import Layout
from .samples import LABELS, Pages, read_labels
from .work import Quantized, Work

TABLE_BITS = 8
"""Of the embedding and the head: logits are the last place to save bits, and the table is read a row at a time."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Quantizer:
    """The scheme of each tower by name (`vision`, `llm`), their options, and the pages to calibrate on.

    `tensors` are the checkpoint's, perhaps in another basis.
    """

    spec: ModelSpec
    targets: Mapping[str, Target]
    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    out: Path
    precisions: Mapping[str, str]
    options: schemes.Options
    calib: Path
    limit: int

    @property
    def work(self) -> Path:
        """What is done so far lies beside the bundle it is for, and survives a kill."""
        return self.out.with_name(f".{self.out.name}.calibration")

    def tower(self, name: str, draft: Manifest, directory: Path, report: Report) -> Quantized:
        """A tower as the plan asks for it: quantized, or as it is."""
        if name not in self.precisions:
            return Quantized()
        return (self._vision if name == "vision" else self._llm)(draft, directory, report)

    def _vision(self, draft: Manifest, directory: Path, report: Report) -> Quantized:
        """The vision tower, calibrated on the pages as `draft` and the text files in `directory` say.

        Raises ExportError for pages that cannot be used and for activations that are not finite.
        """
        from . import calibrate  # torch is only needed from here on

        pages, target = self._pages(draft, directory), self.targets["vision"]
        report(f"calibrating vision on {len(pages.labels)} pages of {self.calib}")
        work = Work(self.work / "vision", self._key(draft, pages))
        work.begin(pages.patches())
        tower = calibrate.Tower(
            "vision",
            tuple(vision_stages(self.spec.vision)),
            lambda name, layouts: vision_stage(self.spec, target, name, layouts),
            target,
            self.tensors,
            self._scheme("vision"),
        )
        return calibrate.quantize_tower(tower, work, report)

    def _llm(self, draft: Manifest, directory: Path, report: Report) -> Quantized:
        """The language model, calibrated on what the vision graph in `directory` gives it, and its tables."""
        from qvl_runtime.sessions.cpu import open_vision

        from . import calibrate, rows

        pages, tensors, target = self._pages(draft, directory), self.tensors, self.targets["llm"]
        report(f"calibrating llm on {len(pages.labels)} pages of {self.calib}")
        work = Work(self.work / "llm", self._key(draft, pages))
        work.begin(pages.tokens(open_vision(directory, draft, None), tensors["model.embed_tokens.weight"]))
        tower = calibrate.Tower(
            "llm",
            tuple(decoder_stages(self.spec.text)),
            lambda name, layouts: decoder_stage(self.spec.text, target, name, layouts),
            target,
            tensors,
            self._scheme("llm"),
        )
        found = calibrate.quantize_tower(tower, work, report)
        layout = Layout(TABLE_BITS, self.options.block_size)
        names = ("model.embed_tokens",) if self.spec.text.tied else ("model.embed_tokens", "lm_head")
        tables = {name: rows.quantize_rows(tensors[f"{name}.weight"], layout, work.directory) for name in names}
        return replace(found, linears={**found.linears, **tables})

    def _scheme(self, tower: str) -> Callable[[str], schemes.Scheme | None]:
        scheme = schemes.find(self.precisions[tower], self.options)
        return lambda _: scheme

    def _pages(self, draft: Manifest, directory: Path) -> Pages:
        template = ChatTemplate((directory / "chat_template.jinja").read_text("utf-8"), directory)
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        return Pages(self.calib, read_labels(self.calib, self.limit), draft, template, tokenizer)

    def _key(self, draft: Manifest, pages: Pages) -> dict[str, object]:
        """What must be the same for a killed calibration to go on."""
        described = msgspec.to_builtins(draft)
        del described["provenance"]["created"]
        images = [label.image for label in pages.labels]
        return {
            "bundle": described,
            "checkpoint": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.checkpoint.files],
            "pages": {name: sha256(self.calib / name) for name in sorted({LABELS, *images})},
            "limit": self.limit,
            "schemes": [repr(self.options), dict(self.precisions)],
            "targets": repr(self.targets),
        }

    def clean(self) -> None:
        """Remove what was kept for resuming."""
        shutil.rmtree(self.work, ignore_errors=True)
