"""Records and costs: reading them back, also after a killed process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qvl_export.evaluate.answers.records import Cost, Record, Records, record_writer


def test_an_old_failure_hides_no_answer_of_any_process(tmp_path: Path) -> None:
    with record_writer(tmp_path, "a", 1) as append:
        append(Record(item=1, error="boom"))
    with record_writer(tmp_path, "a", 0) as append:
        append(Record(item=1, answer="ok"))
    records = Records(tmp_path, "a")
    assert (answered := records.answered(1)) and answered.answer == "ok" and not records.failed
    for rank, megabytes in enumerate((10, 20, 40)):
        Cost(1, megabytes).save(tmp_path, "a", rank)
    Cost.remove_beyond(tmp_path, "a", 2)
    assert Cost.load(tmp_path, "a") == Cost(1, 30)


def test_half_a_line_is_cut_off_and_failed_items_are_open(tmp_path: Path) -> None:
    with record_writer(tmp_path, "a", 0) as append:
        append(Record(item=3, answer="x"))
        append(Record(item=4, error="broke"))
    with (tmp_path / "a.0.jsonl").open("ab") as file:
        file.write(b'{"item": 5, "answ')
    with record_writer(tmp_path, "a", 0) as append:
        append(Record(item=6, answer="z"))
    records = Records(tmp_path, "a")
    found = [getattr(records.answered(index), "answer", None) for index in range(3, 7)]
    assert found == ["x", None, None, "z"] and len(records) == 2 and records.failed == {4}
    assert msgspec.json.decode((tmp_path / "a.0.jsonl").read_bytes().splitlines()[-1])["item"] == 6
