"""Bundles of every earlier schema version still load, and still give what the runtime of their time gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_runtime import load
from qvl_runtime.bundle import read_manifest, verify
from qvl_runtime.manifest import SCHEMA_VERSION

BUNDLES = Path(__file__).parents[1] / "checkpoints" / "bundles"
VERSIONS = range(1, SCHEMA_VERSION)
LARGEST = 0.02
"""Of a difference. Logits have a standard deviation of 6; these were kept in float16, from another processor."""
RAMP = np.add.outer(np.arange(56), np.arange(84))[..., None] * np.array([1, 2, 3]) % 256
MESSAGES = [
    {
        "role": "user",
        "content": [{"type": "image", "image": RAMP.astype(np.uint8)}, {"type": "text", "text": "Read the text."}],
    }
]


def test_every_earlier_version_is_here() -> None:
    assert sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()) == [f"v{version}" for version in VERSIONS]


@pytest.mark.parametrize("version", VERSIONS)
def test_its_files_are_whole(version: int) -> None:
    bundle = BUNDLES / f"v{version}"
    manifest = read_manifest(bundle)
    assert manifest.schema_version == version
    assert all(good for _, good in verify(bundle, manifest))


@pytest.mark.parametrize("saturating", [None, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_its_logits_are_unchanged(version: int, saturating: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this processor, and in the mode for processors whose byte products saturate."""
    if saturating:
        monkeypatch.setattr("qvl_runtime.sessions.cpu.saturates", lambda: True)
    assert_equal_logits(version)


@pytest.mark.parametrize("version", [5, 6])
def test_portable_bundles_need_no_exact_products(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_runtime.sessions.cpu.saturates", lambda: False)
    assert_equal_logits(version)


def assert_equal_logits(version: int) -> None:
    with load(BUNDLES / f"v{version}", threads=1) as model:
        logits = model.logits(MESSAGES, answer="Total: 12")
    assert np.abs(logits - np.load(BUNDLES / f"v{version}.logits.npy")).max() < LARGEST
