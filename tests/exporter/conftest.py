"""Fixtures that tests of the exporter share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exporter.text_files import without_texts


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A checkpoint without a tokenizer's configuration and chat template."""
    return without_texts(tmp_path)
