"""Quantizes both towers on the same pages and keeps the results beside the bundle until it is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from qvl_runtime.manifest import Calibration, Manifest

from ..common.arrays import Floats
from ..common.progress import Report
from ..common.threads import thread_limit
from . import schemes
from .calibration.saved_linear import SavedLinear
from .calibration.work_dir import TowerResult, Work
from .calibration_data.prompts import Encoder
from .context import CalibrationContext, CalibrationSetup
from .mixed_precision.sensitivity_table import Sensitivity
from .precision import MIXED

FEATURES = "features"
"""Folder in the work directory for image features that a cluster encoded."""


@dataclass(frozen=True)
class Quantizer:
    """Quantizes one tower after another; schemes that depend on sensitivities are chosen once."""

    setup: CalibrationSetup
    _chosen: dict[str, schemes.Scheme | None] = field(default_factory=dict)

    def context(self, manifest: Manifest, directory: Path, report: Report) -> CalibrationContext:
        """Returns the context of a tower: `manifest` describes the unfinished bundle in `directory`."""
        return CalibrationContext(self.setup, manifest, directory, report)

    def tower(self, name: str, context: CalibrationContext, before: TowerResult) -> TowerResult:
        """Quantizes the tower `name`, or returns an empty result if the plan keeps it in float.

        `before` is the result of the previous tower. Raises ExportError for pages that cannot be used and for
        activations that are not finite.
        """
        if name not in self.setup.precisions:
            return TowerResult()
        return self._vision(context) if name == "vision" else self._llm(name, context, before.cache_scales)

    def sensitivities(self, context: CalibrationContext) -> list[Sensitivity]:
        """Returns the cost of each precision of each linear, see `mixed_precision.measure`."""
        from .mixed_precision import choose as mixed

        return mixed.sensitivities(context)

    def calibration(self, report: Report) -> Calibration:
        """The manifest's entry for the pages."""
        return self.setup.calibration(report)

    def scheme_of(self, tower: str, context: CalibrationContext) -> Callable[[str], schemes.Scheme | None]:
        """Returns a function from the name of a tower's linear to its scheme."""
        if self.setup.precisions[tower] != MIXED:
            scheme = schemes.find(self.setup.precisions[tower], self.setup.options)
            return scheme.of_linear
        from .mixed_precision import choose as mixed

        if not self._chosen:
            self._chosen.update(mixed.choose(context))
        return self._chosen.__getitem__

    def _vision(self, context: CalibrationContext) -> TowerResult:
        from .calibration import layerwise as calibrate  # torch is only needed from here on
        from .towers import vision_tower

        setup, scheme = self.setup, self.scheme_of("vision", context)
        work = Work(setup.work / "vision", context.key)
        context.report(f"calibrating vision on {context.page_summary}")
        work.begin(context.sampler.patches())
        tower = vision_tower(setup.spec, setup.targets["vision"], setup.tensors, scheme)
        if setup.precisions["vision"] == MIXED:
            tower = replace(tower, per_tensor=False)  # the choice already says which linears are per tensor
        return calibrate.quantize_tower(tower, work, context.report, setup.pool)

    def _llm(self, name: str, context: CalibrationContext, cache_scales: Mapping[str, Floats]) -> TowerResult:
        """Quantizes the language model, on features from the bundle's vision graph, and its tables.

        `cache_scales` come from the graph that shares its KV cache.
        """
        from .calibration import layerwise as calibrate
        from .towers import llm_tower

        setup = self.setup
        work = Work(setup.work / name, context.key)
        context.report(f"calibrating {name} on {context.page_summary}")
        work.begin(context.sampler.tokens(_image_encoder(context), setup.tensors["model.embed_tokens.weight"]))
        shutil.rmtree(setup.work / FEATURES, ignore_errors=True)
        tower = llm_tower(setup.spec, setup.targets[name], setup.tensors, self.scheme_of(name, context))
        moe = setup.spec.text.moe
        experts = moe.experts_per_token if moe and setup.options.gptq_experts else 0
        tower = replace(tower, name=name, cache_scales=cache_scales, experts_per_token=experts)
        result = calibrate.quantize_tower(tower, work, context.report, setup.pool)
        tables = {table: self._table(table, work.directory) for table in setup.tables}
        return replace(result, linears={**result.linears, **tables})

    def _table(self, name: str, directory: Path) -> SavedLinear:
        from .calibration import rtn_tables as rows

        tensor = self.setup.tensors[f"{name}.weight"]
        return rows.quantize_rows(name, tensor, (tensor.shape[0], tensor.shape[1]), self.setup.table_format, directory)


def _image_encoder(context: CalibrationContext) -> Encoder:
    """The bundle's vision graph; with a cluster, features of images that its machines encode ahead."""
    from qvl_runtime.sessions.cpu import open_vision

    if context.setup.pool is None:
        return open_vision(context.directory, context.manifest, thread_limit())
    from .calibration.encode_images import Encoded, encode

    work = Work(context.setup.work / FEATURES, context.key)
    images = context.sampler.images()
    return Encoded(encode(context.setup.pool, work, images, context.directory, context.manifest))
