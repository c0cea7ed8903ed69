"""Mutated checkpoints: each is exported or refused in one line, in bounded time, and leaves nothing half written."""

from __future__ import annotations

import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from qvl_export import export
from qvl_runtime.errors import QvlError
from tests.exporter.mutants import mutate
from tests.oracles import tiny
from tests.plans import export_plan

GPTQ = Path(__file__).parents[1] / "quant" / "gptq" / "qwen2_vl_g32_asym"
SECONDS, MEGABYTES = 30, 1000
"""What one may take, where a good one takes a tenth of each: more is a size that was believed."""


@pytest.fixture(scope="module")
def sources(
    checkpoint: Callable[[str, str], Path],
    oracle: Callable[[str, str], PreTrainedModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """A checkpoint of each family, one in shards, and one by GPTQ."""
    whole = [checkpoint(family, "small") for family in tiny.FAMILIES]
    shards = tiny.save(oracle("qwen2_vl", "small"), tmp_path_factory.mktemp("sharded"), max_shard_size="200KB")
    return [*whole, shards, GPTQ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_mutant_is_exported_or_refused_in_one_line(seed: int, sources: list[Path], tmp_path: Path) -> None:
    rng = random.Random(seed)
    for number in range(20):
        here, out = tmp_path / f"c{number}", tmp_path / f"b{number}"
        shutil.copytree(rng.choice(sources), here)
        changed, began, before = mutate(here, rng), time.process_time(), memory()
        said = ""
        try:
            export(export_plan(here, out, rotate=rng.random() < 0.2))
        except QvlError as error:
            said = str(error)
        assert out.exists() != bool(said) and said.isprintable() and len(said) < 3000, changed
        assert time.process_time() - began < SECONDS and memory() - before < MEGABYTES, changed
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        shutil.rmtree(here)


def memory() -> float:
    """The most that this process ever had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
