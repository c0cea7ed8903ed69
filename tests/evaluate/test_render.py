"""The report: one rule for verdict, headline and table, one width of interval, the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qvl_export.evaluate.analysis import machine as machines
from qvl_export.evaluate.analysis.machine import Machine, this_machine
from qvl_export.evaluate.analysis.results import AgreementSummary
from qvl_export.evaluate.report import render as pages
from qvl_export.evaluate.report.text import headline
from qvl_export.evaluate.sets.dataset import EvalSet, open_set
from tests.evaluate.answer_patterns import (
    ITEMS,
    TRUTH,
    gathered_errors,
    rarely_wrong,
    report,
    right,
    spread_errors,
    wrong,
)


def test_a_loss_in_a_further_metric_is_one_in_the_headline_too(chosen: EvalSet) -> None:
    """Words are lost, characters are not."""
    found = report(chosen, ("fp16", gathered_errors, 2), ("int8", spread_errors, 1))
    [bundle] = found.bundles
    by_name = {score.metric: score for score in bundle.scores}
    assert by_name["cer"].difference == 0 and by_name["wer"].direction == "worse"
    assert headline(found) == "int8 loses accuracy."
    low, high = (100 * bound for bound in (by_name["wer"].low, by_name["wer"].high))
    assert bundle.verdict.text == (
        f"Loss of {low:.1f} to {high:.1f} points of WER in ocr. No primary metric shows a loss."
    )


@pytest.mark.parametrize("seed", range(8))
def test_headline_and_colors_follow_one_rule(chosen: EvalSet, seed: int) -> None:
    """For any answers: nothing is red under a headline without loss, and a loss has something red."""
    rng = np.random.default_rng(seed)
    spoilt = [rng.random(ITEMS) < share for share in rng.uniform(0, 0.25, 2)]
    answers = [lambda index, which=which: wrong(index) if which[index] else TRUTH for which in spoilt]
    found = report(chosen, ("fp16", answers[0], 2), ("int8", answers[1], 1))
    [bundle] = found.bundles
    page = pages.html(found)
    assert ("value worse" in page) == (bundle.verdict.outcome == "loss") == ("loses accuracy" in headline(found))
    assert all(group.direction == "" for group in bundle.by_kind) or bundle.verdict.outcome in ("loss", "gain")


def test_intervals_have_one_width(chosen: EvalSet) -> None:
    """The verdict's bounds are the table's, with however many tasks."""
    labels = [json.loads(line) for line in (chosen.directory / "labels.jsonl").read_text().splitlines()]
    for index, label in enumerate(labels):
        label["task"] = ("ocr", "qa")[index % 2]
    (chosen.directory / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    found = report(open_set(chosen.directory), ("fp16", right, 2), ("int8", wrong, 1)).bundles[0]
    shown = re.findall(r"Loss of (\d+\.\d) to (\d+\.\d) points of (\w+) in (\w+)\.", found.verdict.text)
    firsts = [score for score in found.scores if (score.task, score.metric) in (("ocr", "cer"), ("qa", "anls"))]
    bounds = [(f"{100 * score.loss().low:.1f}", f"{100 * score.loss().high:.1f}") for score in firsts]
    assert [each[:2] for each in shown] == bounds and len(bounds) == 2


def test_metrics_are_never_averaged_with_one_another(chosen: EvalSet) -> None:
    page = pages.html(report(chosen, ("fp16", right, 2), ("int8", rarely_wrong, 1)))
    assert "mean score" not in page.lower()
    assert page.count("CER in ocr against size in MB.") == page.count("CER in ocr against seconds per item.") == 1
    assert "CER, % (lower is better)" in page


def test_the_page_the_table_and_the_json_name_the_machine(
    chosen: EvalSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = "processor : 0\nmodel name\t: Some  CPU 3000\nflags\t\t: fpu avx2 avx512f avx512_vnni sse\n"
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(machines, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machines, "cores", lambda: 8)
    here = this_machine(4, 2, 1, ["cpu", "hf"])
    assert (here.processor, here.instructions) == ("Some CPU 3000", ["AVX2", "AVX-512", "AVX-512 VNNI"])
    assert {"onnxruntime", "Python", "torch"} <= set(here.versions)
    assert "torch" not in this_machine(4, 2, 1, ["cpu"]).versions
    found = msgspec.structs.replace(report(chosen, ("fp16", right, 2), ("int8", wrong, 1)), machine=here)
    said = "Some CPU 3000 (AVX2, AVX-512, AVX-512 VNNI), 8 cores; 2 processes per model of 4 threads; "
    assert f"Measured on: {said}" in pages.markdown(found) and said in pages.html(found)
    assert msgspec.json.decode(msgspec.json.encode(found.machine), type=Machine) == here


def test_agreement_has_a_column_per_bundle(chosen: EvalSet) -> None:
    """So that the table is as narrow as the bundles are few."""
    some = AgreementSummary(30, 99, 0.1, 0.1, 0.2, 0.1, 0.5, 1.0, 0.9, 1.0, 29, 1, 4.0, 0, 0, 1.0)
    found = report(chosen, ("fp16", right, 2), ("int8", wrong, 1))
    bundles = [msgspec.structs.replace(bundle, agreement=some) for bundle in found.bundles]
    page = pages.html(msgspec.structs.replace(found, bundles=bundles, noise=some))
    table = page[page.index("Agreement with") :]
    assert "<th></th><th>int8</th><th>noise floor</th></tr>" in table
    assert table.count("<td>29 of 30</td>") == 2
