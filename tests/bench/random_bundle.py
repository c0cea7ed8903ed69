"""Quantized bundles of random codes, for measurements of speed: no calibration, the same graphs and formats."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.common.progress import Progress
from qvl_export.exporting import pipeline
from qvl_export.families.spec import ModelSpec
from qvl_export.graph.layer_graphs import Stage, decoder_stage, decoder_stages, vision_stage, vision_stages
from qvl_export.qtensor import Activations, QTensor, QuantFormat, table_format
from qvl_export.quant import schemes
from qvl_export.quant.calibration.work_dir import TowerResult
from qvl_export.quant.context import CalibrationSetup
from qvl_export.targets import Target
from qvl_runtime.manifest import Manifest

SPREAD = 0.02
"""The standard deviation of weights."""
UNEVEN = ("attn.proj", "mlp.down_proj")
"""Linears of the vision tower whose inputs calibration rounds token by token, on both reference checkpoints mostly."""
INPUT_SCALE = 0.05
"""The step of static int8 inputs."""


@dataclass(frozen=True)
class RandomLinear:
    """A quantized linear of random codes (see `stored.QuantizedSource`), others for every name.

    Engines store equal weights once.
    """

    name: str
    quant_format: QuantFormat
    rows: int
    columns: int
    file: Path = Path("random")

    def format(self) -> QuantFormat:
        return self.quant_format

    def per_tensor(self) -> RandomLinear:
        """With inputs that are rounded all together, if they are rounded at all."""
        return (
            replace(self, quant_format=self.quant_format.with_inputs_per_tensor())
            if self.quant_format.integer
            else self
        )

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.name.encode()))

    def read(self) -> QTensor:
        """Codes drawn once for a megabyte and repeated: kernels take the same time for any."""
        top = 1 << self.quant_format.bits
        codes = np.resize(self._random().integers(1, top, 1 << 20, np.uint8), (self.rows, self.columns))
        scale = SPREAD / (top / 12**0.5)
        scales = np.full((self.rows, self.quant_format.blocks(self.columns)), scale, self.quant_format.scale_type)
        static = self.quant_format.activations is Activations.INT8_STATIC
        return QTensor(self.quant_format, codes, scales, input_scale=INPUT_SCALE if static else None)


@dataclass(frozen=True)
class RandomQuantizer:
    """Instead of `quantizer.Quantizer`: every linear that it would quantize, and the tables."""

    spec: ModelSpec
    checkpoint: Checkpoint
    precisions: Mapping[str, str]
    targets: Mapping[str, Target]
    options: schemes.Options

    def tower(self, name: str, *_: object) -> TowerResult:
        if name not in self.precisions:
            return TowerResult()
        scheme = schemes.find(self.precisions[name], self.options)
        linears = {linear: self._linear(linear, scheme.of_linear(linear).format) for linear in self._names(name)}
        if name == "vision" and self.targets[name].per_tensor_activations:
            linears |= {name: linear.per_tensor() for name, linear in linears.items() if not name.endswith(UNEVEN)}
        if name != "vision" and self.targets[name].quantized_tables:
            tables = ["model.embed_tokens"] + ["lm_head"] * (not self.spec.text.tied)
            linears |= {t: self._linear(t, table_format) for t in tables}
        return TowerResult(cast(Any, linears))

    def context(self, *_: object) -> None: ...

    def calibration(self, _: object) -> None: ...

    def _stages(self, name: str) -> list[Stage]:
        target = self.targets[name]
        if name == "vision":
            return [vision_stage(self.spec, target, stage) for stage in vision_stages(self.spec.vision)]
        return [decoder_stage(self.spec.text, target, stage) for stage in decoder_stages(self.spec.text)]

    def _names(self, name: str) -> list[str]:
        return [linear for stage in self._stages(name) for linear in stage.linears]

    def _linear(self, name: str, format: Any) -> RandomLinear:
        rows, *rest = self.checkpoint.tensors[f"{name}.weight"].shape
        columns = int(np.prod(rest))
        return RandomLinear(name, format(columns), rows, columns)

    def clean(self) -> None: ...


def export_random(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """The plan's bundle, with random codes instead of calibrated ones."""

    def quantizer(setup: CalibrationSetup) -> RandomQuantizer:
        return RandomQuantizer(setup.spec, setup.checkpoint, setup.precisions, setup.targets, setup.options)

    with mock.patch.object(pipeline, "Quantizer", quantizer):
        return export(plan, progress)
