"""The fingerprint of code changes with any of its files, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvl_export.common.fingerprint import digest, fingerprint, versions


def test_a_changed_byte_a_new_file_and_a_new_name_are_seen(tmp_path: Path) -> None:
    inner = tmp_path / "quant"
    inner.mkdir()
    (inner / "gptq.py").write_text("ROUNDS = 1\n")
    (inner / "notes.txt").write_text("no code")
    first = digest([tmp_path])
    (inner / "notes.txt").write_text("still none")
    assert digest([tmp_path]) == first
    (inner / "gptq.py").write_text("ROUNDS = 2\n")
    second = digest([tmp_path])
    (inner / "gptq.py").rename(inner / "other.py")
    third = digest([tmp_path])
    (inner / "more.py").touch()
    assert len({first, second, third, digest([tmp_path])}) == 4


def test_of_this_installation() -> None:
    found = fingerprint()
    assert len(found["code"]) == 64
    assert found["numpy"] == np.__version__
    assert versions(["no-such-distribution"]) == {}
