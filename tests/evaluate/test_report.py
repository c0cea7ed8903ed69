"""The report: what it says to ship, one rule for verdict, headline and table, one width of interval, the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from qvl_export.evaluate.analysis import machine as machines
from qvl_export.evaluate.analysis.machine import Machine, this_machine
from qvl_export.evaluate.analysis.results import AgreementSummary, Report
from qvl_export.evaluate.analysis.summary import summarise
from qvl_export.evaluate.answers.contender import Contender
from qvl_export.evaluate.answers.records import Cost, Record, Records, appending
from qvl_export.evaluate.report import render as pages
from qvl_export.evaluate.report.text import headline
from qvl_export.evaluate.sets.dataset import EvalSet, open_set

ITEMS = 120
TRUTH = "alpha beta gamma delta"
Answer = Callable[[int], str]


def right(_: int) -> str:
    return TRUTH


def wrong(_: int) -> str:
    return "alpha beta gamma delt"


def rarely_wrong(index: int) -> str:
    return wrong(index) if index % 30 == 0 else TRUTH


def spread_errors(index: int) -> str:
    """As many characters wrong as in `gathered_errors`, in three words where that has them in one."""
    return "alphX bXta gammX delta" if index % 3 else "alpha beta gamma delta"


def gathered_errors(index: int) -> str:
    return "alpha beta gXXXa delta" if index % 3 else "alpha beta gamma delta"


@pytest.fixture
def chosen(tmp_path: Path) -> EvalSet:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    label = {"image": "p.png", "prompt": "Read.", "task": "ocr", "answers": [TRUTH], "kind": "letter"}
    (tmp_path / "labels.jsonl").write_text((json.dumps(label) + "\n") * ITEMS)
    return open_set(tmp_path)


def report(chosen: EvalSet, *models: tuple[str, Answer, float], hf: bool = False, failing: str = "") -> Report:
    """What a report says of models by name, answers, and cost in MB and memory; the first is the reference."""
    for name, answer, _ in models:
        with appending(chosen.directory, name, 0) as append:
            for item in chosen.items():
                error = "EngineError: no" if name == failing and not item.index else ""
                times = {"first_token_seconds": 0.1, "decode_seconds": 0.1}
                append(Record(item=item.index, answer="" if error else answer(item.index), error=error, **times))
    found = [
        Contender(name, f"/b/{name}", "fp16", "qwen2_vl", size, Cost(1.0, 100 * size), Records(chosen.directory, name))
        for name, _, size in models
    ]
    reference = Contender(**{**vars(found[0]), "family": ""}) if hf else found[0]
    return summarise(chosen, reference, found[1:], None)


def test_the_cheapest_bundle_without_loss_is_to_be_shipped(chosen: EvalSet) -> None:
    found = report(chosen, ("fp32", right, 4), ("fp16", right, 2), ("int8", rarely_wrong, 1), ("int4", wrong, 0.5))
    advice = found.recommendation
    assert advice is not None and (advice.title, advice.path) == ("int8", "/b/int8")
    assert re.fullmatch(
        r"it loses nothing measurable \(at most 0\.\d points of CER in ocr\) and is 4\.0 times smaller and in need of "
        r"4\.0 times less memory than fp32; int4 loses accuracy\.",
        advice.reason,
    )
    assert f"**Ship int8**: {advice.reason}" in pages.markdown(found)
    page = pages.html(found)
    assert page.index("Ship int8.") < page.index('class="cards"')
    assert json.loads(msgspec.json.encode(found))["recommendation"]["title"] == "int8"


@pytest.mark.parametrize(
    ("models", "options", "title", "said"),
    [
        ([("fp16", right, 2), ("int4", wrong, 1)], {}, "fp16", "it is the reference itself; int4 loses accuracy."),
        ([("hf", right, 2), ("int4", wrong, 1)], {"hf": True}, None, "no bundle matches PyTorch; int4 loses accuracy."),
        ([("hf", right, 2), ("fp16", right, 2)], {"hf": True}, "fp16", "it answers exactly as the reference."),
        (
            [("fp16", right, 2), ("copy", right, 2)],
            {},
            "fp16",
            "it is the reference itself; copy loses nothing but saves too little.",
        ),
        (
            [("fp16", right, 2), ("int8", right, 1)],
            {"failing": "int8"},
            "fp16",
            "it is the reference itself; int8 fails at items.",
        ),
    ],
)
def test_what_is_shipped_where_no_bundle_is_better(
    chosen: EvalSet, models: list[tuple[str, Answer, float]], options: dict, title: str | None, said: str
) -> None:
    found = report(chosen, *models, **options).recommendation
    assert found is not None and (found.title, found.reason) == (title, said)


def test_nothing_is_recommended_where_the_set_cannot_tell(chosen: EvalSet) -> None:
    few = EvalSet(chosen.directory, chosen.total, chosen.digest, tuple(range(5)))
    found = report(few, ("fp16", right, 2), ("int8", rarely_wrong, 1))
    assert found.recommendation is not None and found.recommendation.title is None
    assert (
        found.recommendation.reason == "the set has too few items of ocr to tell what int8 loses (at least 20 of each)."
    )
    assert "**Nothing to ship yet**: the set has too few" in pages.markdown(found)


def test_a_loss_that_is_not_ruled_out_is_told_and_what_it_takes(chosen: EvalSet) -> None:
    def either(index: int) -> str:
        return TRUTH if index % 2 else "alpha"

    def other(index: int) -> str:
        return "alpha" if index % 2 else TRUTH

    found = report(chosen, ("fp16", either, 2), ("int8", other, 1)).recommendation
    assert found is not None and found.title is None
    said = r"int8 shows no loss, but one of 1\d\.\d points of CER in ocr is not ruled out"
    assert re.fullmatch(said + r" \(some [\d,]+ items would tell\)\.", found.reason)


def test_a_loss_in_a_further_metric_is_one_in_the_headline_too(chosen: EvalSet) -> None:
    """Words are lost, characters are not."""
    found = report(chosen, ("fp16", gathered_errors, 2), ("int8", spread_errors, 1))
    [bundle] = found.bundles
    by_name = {score.metric: score for score in bundle.scores}
    assert by_name["cer"].difference == 0 and by_name["wer"].direction == "worse"
    assert headline(found) == "int8 loses accuracy."
    low, high = (100 * bound for bound in (by_name["wer"].low, by_name["wer"].high))
    assert bundle.verdict.text == (
        f"Loss of {low:.1f} to {high:.1f} points of WER in ocr. The first metric of no task shows one."
    )


@pytest.mark.parametrize("seed", range(8))
def test_headline_and_colors_follow_one_rule(chosen: EvalSet, seed: int) -> None:
    """Whatever the answers: nothing is red under a headline without loss, and a loss has something red."""
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


def test_a_machine_that_tells_nothing_has_a_name_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "CPUINFO", tmp_path / "none")
    assert this_machine(1, 1, 1, []).processor and this_machine(1, 1, 1, []).instructions == []


def test_agreement_has_a_column_per_bundle(chosen: EvalSet) -> None:
    """So that the table is as narrow as the bundles are few."""
    some = AgreementSummary(30, 99, 0.1, 0.1, 0.2, 0.1, 0.5, 1.0, 0.9, 1.0, 29, 1, 4.0, 0, 0, 1.0)
    found = report(chosen, ("fp16", right, 2), ("int8", wrong, 1))
    bundles = [msgspec.structs.replace(bundle, agreement=some) for bundle in found.bundles]
    page = pages.html(msgspec.structs.replace(found, bundles=bundles, noise=some))
    table = page[page.index("Agreement with") :]
    assert "<th></th><th>int8</th><th>noise floor</th></tr>" in table
    assert table.count("<td>29 of 30</td>") == 2
