"""The size of a bundle before it is written, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.exporting.option_checks import adjusted_spec
from qvl_export.families import read_spec
from qvl_export.quant.mixed_precision.bundle_size import Sizes
from qvl_export.targets import lower
from tests.oracles.tiny import FAMILIES
from tests.quant.test_mixed import size_of


@pytest.mark.parametrize(
    ("family", "target"),
    [*((family, "cpu") for family in FAMILIES), ("qwen2_5_vl", "cuda"), ("qwen2_5_vl", "portable")],
)
def test_sizes_are_those_of_bundles(
    checkpoint: Callable[[str, str], Path], tmp_path: Path, family: str, target: str
) -> None:
    """To the byte, for every family and target."""
    plan = ExportPlan(checkpoint(family, "deep"), tmp_path / "b", target=target)
    manifest = export(plan)
    spec = adjusted_spec(plan, read_spec(Checkpoint(Path(plan.checkpoint))))
    texts = {name: entry for name, entry in manifest.files.items() if ".onnx" not in name}
    draft = msgspec.structs.replace(manifest, files=texts, graphs={})
    sizes = Sizes(spec, dict.fromkeys(("vision", "llm"), lower(target, "fp16")), {}, draft)
    assert sizes.bundle({}) == size_of(tmp_path / "b")
