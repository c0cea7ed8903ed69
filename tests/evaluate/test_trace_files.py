"""Files of a traced run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qvl_export.evaluate.trace.trace_files import TraceInfo, file_name


def test_every_stage_has_a_file_of_its_own_in_one_directory() -> None:
    stages = ["llm.layers.0", "llm.layers.0/mlp", "llm.layers.0/mlp/up_proj"]
    names = {file_name(stage) for stage in stages}
    assert len(names) == 3 and all(Path(name).name == name for name in names)


def test_a_description_is_read_as_it_was_written() -> None:
    info = TraceInfo(["a", "b"], [1, 2], 9)
    assert msgspec.json.decode(msgspec.json.encode(info), type=TraceInfo) == info
