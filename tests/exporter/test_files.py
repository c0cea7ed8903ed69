"""Files of a bundle: their hashes, and bundles that share files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from qvl_export.bundle.files import check_free, file_entry, link_files, write_manifest
from qvl_export.errors import OutputError
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import MANIFEST

BUNDLE = Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6"


def test_an_entry_is_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    entry = file_entry(tmp_path / "a")
    assert (entry.size, entry.sha256) == (7, hashlib.sha256(b"content").hexdigest())
    assert file_entry(tmp_path / "a", "0" * 64).sha256 == "0" * 64


@pytest.mark.parametrize("links", [True, False])
def test_another_bundle_gets_the_same_files(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    manifest = read_manifest(BUNDLE)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "b").mkdir()
    link_files(manifest, BUNDLE, tmp_path / "b")
    write_manifest(tmp_path / "b", manifest)
    assert read_manifest(tmp_path / "b") == manifest
    assert all(file_entry(tmp_path / "b" / name) == entry for name, entry in manifest.files.items())


def test_only_bundles_are_replaced(tmp_path: Path) -> None:
    check_free(tmp_path / "new", force=False)
    (tmp_path / MANIFEST).write_text("{}")
    check_free(tmp_path, force=True)
    with pytest.raises(OutputError, match="already exists"):
        check_free(tmp_path, force=False)
    (tmp_path / MANIFEST).rename(tmp_path / "thesis.tex")
    with pytest.raises(OutputError, match="is not a bundle"):
        check_free(tmp_path, force=True)
