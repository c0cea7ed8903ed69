"""`--llm-precision int4`: the decoder's linears in int4, calibrated with the graphs that ship."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.manifest import Manifest, sha256

from ..checkpoint import Checkpoint
from ..families.spec import ModelSpec
from ..graph.build import llm_weights
from ..targets import Target
from .qtensor import Layout
from .samples import LABELS, Sampler, read_labels
from .saved import SavedLinear

EMBEDDING_BITS = 8
"""Of the embedding and the head: logits are the last place to save bits, and the table is read a row at a time."""


@dataclass(frozen=True)
class DecoderInt4:
    """GPTQ of every decoder layer on up to `limit` pages of `calib`; embedding and head take EMBEDDING_BITS."""

    spec: ModelSpec
    target: Target
    out: Path
    layout: Layout
    calib: Path
    limit: int

    @property
    def work(self) -> Path:
        """What is done so far lies beside the bundle it is for, and survives a kill."""
        return self.out.with_name(f".{self.out.name}.calibration")

    @cached_property
    def linears(self) -> dict[str, SavedLinear]:
        """The linears that `calibrate` fills, embedding and head among them."""
        shapes = llm_weights(self.spec.text, self.target)
        return {name: SavedLinear(name, self.work / f"{name}.npz", self._form(name), *shapes[name]) for name in shapes}

    def _form(self, name: str) -> Layout:
        return self.layout if name.startswith("model.layers.") else replace(self.layout, bits=EMBEDDING_BITS)

    def calibrate(
        self, checkpoint: Checkpoint, draft: Manifest, directory: Path, report: Callable[[str], None]
    ) -> None:
        """Run the pages through the vision graph in `directory`, described by `draft`, and quantize layer by layer.

        Raises ExportError for pages that cannot be used and for activations that are not finite.
        """
        from qvl_runtime.sessions.cpu import open_vision

        from . import calibrate  # torch is only needed from here on

        labels = read_labels(self.calib, self.limit)
        report(f"calibrating on {len(labels)} pages of {self.calib}")
        sampler = Sampler(
            draft,
            ChatTemplate((directory / "chat_template.jinja").read_text("utf-8"), directory),
            Tokenizer.from_file(str(directory / "tokenizer.json")),
            open_vision(directory, draft, None),
            checkpoint.tensors["model.embed_tokens.weight"],
        )
        decoder = calibrate.Decoder(self.spec.text, self.target, checkpoint.tensors)
        samples = list(sampler.samples(self.calib, labels))
        key = self._key(checkpoint, draft, [label.image for label in labels])
        progress = calibrate.Calibration(self.work, key)
        calibrate.quantize_decoder(decoder, self.linears, samples, progress, report)
        for name in self.linears.keys() & {"model.embed_tokens", "lm_head"}:
            calibrate.quantize_rows(checkpoint.tensors[f"{name}.weight"], self.linears[name])

    def _key(self, checkpoint: Checkpoint, draft: Manifest, pages: Iterable[str]) -> dict[str, object]:
        """What must be the same for a killed calibration to go on."""
        described = msgspec.to_builtins(draft)
        del described["provenance"]["created"]
        return {
            "bundle": described,
            "checkpoint": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in checkpoint.files],
            "pages": {name: sha256(self.calib / name) for name in sorted({LABELS, *pages})},
            "limit": self.limit,
            "layout": repr(self.layout),
            "target": repr(self.target),
        }

    def clean(self) -> None:
        """Remove what was kept for resuming."""
        shutil.rmtree(self.work, ignore_errors=True)
