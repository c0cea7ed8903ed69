"""Whole comparisons of the reference checkpoint's bundles: figures, resuming, failing items, the gate, the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qvl_export import export
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.evaluate.answers.records import Records
from tests.evaluate.test_blame import damage
from tests.heldout import character_error_rate, first_pages
from tests.heldout import items as heldout_items
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

pytestmark = pytest.mark.slow
PAGES = 8
Compare = Callable[..., Result]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first held-out pages as a set of their own."""
    directory = tmp_path_factory.mktemp("set")
    return first_pages(directory, PAGES, lambda image: "odd" if int(image[-5]) % 2 else "even")


@pytest.fixture(scope="module")
def damaged(reference_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage(reference_bundle, tmp_path_factory.mktemp("damaged") / "damaged", 2)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "report"


def compare(*arguments: object, data: Path, out: Path) -> Result:
    options = ["--data", str(data), "--out", str(out), "--threads", "1", "--max-new-tokens", "60", "--quiet"]
    return CliRunner().invoke(cli, ["compare", *map(str, arguments), *options], catch_exceptions=False)


@pytest.fixture(scope="module")
def report(reference_bundle: Path, damaged: Path, data: Path, out: Path) -> dict:
    """The damaged bundle and a copy of the reference against the reference."""
    copy = shutil.copytree(reference_bundle, damaged.parent / "copy")
    done = compare(reference_bundle, copy, damaged, "--json", data=data, out=out)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_the_verdict_says_loss_and_names_the_layer(report: dict) -> None:
    copy, damaged = report["bundles"]
    assert copy["verdict"]["outcome"] == "identical" and copy["agreement"]["same_top"] == 1
    assert damaged["verdict"]["outcome"] == "loss" and "CER" in damaged["verdict"]["text"]
    assert report["blame"]["damaged"]["first_drop"] == "llm.layers.2"
    assert damaged["agreement"]["kl_mean"] > 0.5 > 1e-5 > report["noise"]["kl_mean"]


def test_a_damaged_int4_bundle_is_a_loss_but_int4_is_not(
    reference_bundle: Path, int4_bundle: Path, data: Path, tmp_path: Path
) -> None:
    worse = damage(int4_bundle, tmp_path / "worse", 2)
    done = compare(reference_bundle, int4_bundle, worse, "--json", data=data, out=tmp_path / "out")
    found = json.loads(done.stdout)
    assert [bundle["verdict"]["outcome"] for bundle in found["bundles"]] == ["too few items", "loss"]
    assert found["blame"]["worse"]["first_drop"] == "llm.layers.2"


def test_a_damaged_openvino_bundle_is_a_loss_but_int8_is_not(
    reference_bundle: Path, data: Path, tmp_path: Path
) -> None:
    """Bundles of another engine than the reference's are compared and traced too."""
    pytest.importorskip("openvino")
    good = tmp_path / "good"
    export(export_plan(REFERENCE, good, target="openvino", precision="int8", samples=8))
    worse = damage(good, tmp_path / "worse", 2)
    done = compare(reference_bundle, good, worse, "--json", data=data, out=tmp_path / "out")
    found = json.loads(done.stdout)
    assert [bundle["verdict"]["outcome"] for bundle in found["bundles"]] == ["too few items", "loss"]
    assert found["bundles"][0]["agreement"]["kl_mean"] < 0.01
    assert found["blame"]["worse"]["first_drop"] == "llm.layers.2"


def test_rates_are_those_of_the_answers(report: dict, data: Path, out: Path) -> None:
    work = next((out / "work").iterdir())
    name = next(path.name.split(".")[0] for path in work.glob("reference-*.jsonl"))
    records, truths = Records(work, name), list(heldout_items(pages=PAGES))
    answers = {index: records.get(index) for index in range(len(truths))}
    chosen = [index for index, item in enumerate(truths) if item.task == "ocr"]
    given = [answers[index].answer for index in chosen]
    expected = character_error_rate(given, [truths[index].answer for index in chosen])
    assert report["reference"]["rates"]["ocr"]["cer"] == pytest.approx(expected)
    kinds = {(row["task"], row["group"]): row["items"] for row in report["bundles"][1]["by_kind"]}
    assert kinds["ocr", "odd"] == kinds["ocr", "even"] == PAGES // 2


def test_the_page_is_whole_and_loads_nothing(report: dict, out: Path) -> None:
    page = (out / "index.html").read_text("utf-8")
    for foreign in ("http://", "https://", "<link", "<script", "url(", "@import"):
        assert foreign not in page
    assert page.count("data:image/webp;base64,") == len(report["bundles"][1]["worst"])
    assert "damaged loses accuracy" in page and "<ins>" in page and 'class="truth"' in page
    assert (
        (out / "report.md").read_text("utf-8").startswith(f"# Accuracy report: {report['items']} items ({PAGES} ocr, ")
    )
    assert not list(out.glob(".*")) and not list(out.glob("work/*/scratch"))


def test_a_second_run_answers_nothing_again(
    report: dict, reference_bundle: Path, damaged: Path, data: Path, out: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("work/*/*.jsonl")}
    done = compare(reference_bundle, damaged, "--json", "--no-blame", data=data, out=out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("work/*/*.jsonl")} == before
    assert json.loads(done.stdout)["bundles"][0]["scores"] == report["bundles"][1]["scores"]


def test_a_resumed_run_with_two_workers_finds_the_same(
    report: dict,
    reference_bundle: Path,
    damaged: Path,
    data: Path,
    out: Path,
    tmp_path: Path,
) -> None:
    again = tmp_path / "again"
    shutil.copytree(out / "work", again / "work")
    for path in again.glob("work/*/*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    arguments = reference_bundle, damaged, "--json", "--no-blame", "--workers", 2
    found = json.loads(compare(*arguments, data=data, out=again).stdout)
    assert found["bundles"][0]["scores"] == report["bundles"][1]["scores"]
    assert found["reference"]["rates"] == report["reference"]["rates"]


def test_the_gate(report: dict, reference_bundle: Path, damaged: Path, data: Path, out: Path) -> None:
    arguments = reference_bundle, damaged, "--no-blame", "--fail-if"
    stopped = compare(*arguments, "cer>+0.5pt", data=data, out=out)
    assert stopped.exit_code == 1 and "exceeded: damaged: CER in ocr" in stopped.stderr
    assert compare(*arguments, "cer>+5000pt", data=data, out=out).exit_code == 0


def test_a_gate_on_a_metric_that_the_set_lacks_is_refused(
    reference_bundle: Path, damaged: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"teds: no task of the set has this metric \(its metrics: iou"):
        compare(reference_bundle, damaged, "--fail-if", "teds<-1pt", data=data, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_failing_item_is_recorded_and_counted(
    reference_bundle: Path, damaged: Path, data: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    (broken / "simple_0002.png").write_bytes(b"no image")
    done = compare(reference_bundle, damaged, "--json", "--no-blame", data=broken, out=tmp_path / "out")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["reference"]["failed"] == 3 == found["items"] - found["reference"]["answered"]
    assert "3 items on which the reference failed" in (tmp_path / "out" / "report.md").read_text("utf-8")


def test_a_missing_bundle_is_one_line(reference_bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is not a bundle directory"):
        compare(reference_bundle, tmp_path / "none", data=data, out=tmp_path / "out")
