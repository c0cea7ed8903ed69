"""Models are checked before they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_export.errors import ExportError
from qvl_export.evaluate.answers.answerers import HF
from qvl_export.evaluate.answers.endpoint_names import Endpoint
from qvl_export.evaluate.answers.models import Model, open_models
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from tests.evaluate.stub_server import StubServer, failure, serving
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE

PAGE = HELDOUT / "simple_0001.png"


def test_a_checkpoint_instead_of_a_bundle_is_refused(reference_bundle: Path) -> None:
    checkpoint = Path(REFERENCE)
    said = r": is a checkpoint, not a bundle \(use --reference hf to run it with PyTorch, or export it first\)$"
    with pytest.raises(ExportError, match=said):
        open_models(checkpoint, (reference_bundle,), hf=False)
    with pytest.raises(ExportError, match=said):
        blame(BlamePlan(checkpoint, reference_bundle, (PAGE,), "?"))
    assert [model.engine for model in open_models(checkpoint, (reference_bundle,), hf=True)] == ["hf", "bundle"]


def test_the_size_of_the_reference_counts_only_files_that_are_read(tmp_path: Path) -> None:
    """A whole file, and not the old shards beside it."""
    for name in ("model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).write_bytes(bytes(1000))
    model = Model(tmp_path, HF, "t", "k")
    assert model.result(tmp_path, "none").size_mb == 0.001
    (tmp_path / "model.safetensors").unlink()
    assert model.result(tmp_path, "none").size_mb == 0.002


def test_models_that_are_named_again_have_titles_of_their_own(reference_bundle: Path, tmp_path: Path) -> None:
    """Even if another directory is called so."""
    taken = tmp_path / f"{reference_bundle.name} (2)"
    taken.symlink_to(reference_bundle)
    pruned = Path(f"{reference_bundle}@prune=off")
    models = open_models(reference_bundle, (pruned, reference_bundle, pruned, pruned), hf=False)
    title = reference_bundle.name
    assert [model.title for model in models] == [
        title,
        f"{title}@prune=off",
        f"{title} (2)",
        f"{title}@prune=off (2)",
        f"{title}@prune=off (3)",
    ]


def test_a_server_that_is_named_twice_has_answers_of_two(bundle: Callable[..., Path]) -> None:
    """Another key may reach another model there; the same names find the answers of an earlier run."""
    with serving(StubServer(lambda *_: failure(500))) as stub:
        named = (Endpoint("a", stub.url), Endpoint("b", stub.url))
        first, again = (open_models(bundle("qwen2_vl", "small", "fp32"), (), False, named)[1:] for _ in range(2))
    assert [model.key for model in first] == [model.key for model in again]
    assert len({model.key for model in first}) == 2
