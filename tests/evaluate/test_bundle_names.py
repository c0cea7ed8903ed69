"""Bundles with options, `BUNDLE@prune=RULE`: their names, keys, records, and the columns of the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from qvl_export.cli.commands import cli
from qvl_export.common.progress import NullProgress
from qvl_export.errors import ConfigError, ExportError
from qvl_export.evaluate.analysis.results import Report
from qvl_export.evaluate.answers.bundle_names import BundleName, parse_name
from qvl_export.evaluate.answers.models import open_models
from qvl_export.evaluate.report.render import html, markdown
from qvl_export.evaluate.sweep import SweepPlan, export_bundles, parse_prune
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import MANIFEST
from qvl_runtime.prune.rule import OFF, RULES, Rule
from tests.evaluate.small_reports import report as small_report
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE

NAMES: dict[str, BundleName] = {
    "b": BundleName(Path("b")),
    "b@prune=scan": BundleName(Path("b"), "scan"),
    "a@b/c@prune=2.5": BundleName(Path("a@b/c"), 2.5),
    "b@prune=0": BundleName(Path("b"), "exact"),
    "b@prune=off": BundleName(Path("b"), "off"),
    "a@b/c": BundleName(Path("a@b/c")),
    "a@prune=scan/c": BundleName(Path("a@prune=scan/c")),
    "@prune=scan": BundleName(Path("@prune=scan")),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert parse_name(Path(name)) == NAMES[name]


def test_a_directory_of_the_whole_name_wins(tmp_path: Path) -> None:
    name = tmp_path / "b@prune=scan"
    assert parse_name(name) == BundleName(tmp_path / "b", "scan")
    name.mkdir()
    assert parse_name(name) == BundleName(name)
    assert parse_name(Path(f"{name}@prune=off")) == BundleName(name, "off")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "b@v2",
            "b@v2: is not a directory, and 'v2' is not an option of a bundle (write BUNDLE@prune=off, exact, scan",
        ),
        ("b@threads=2", "'threads' is not an option of a bundle"),
        ("b@", "'' is not an option of a bundle"),
        ("b@prune", "b@prune: prune must be off, exact, scan or a number from 0 to 255, got ''"),
        ("b@prune=exakt", "b@prune=exakt: prune must be off, exact, scan or a number from 0 to 255, got 'exakt'"),
        ("b@prune=1_0", "b@prune=1_0: prune must be off, exact, scan or a number from 0 to 255, got '1_0'"),
    ],
)
def test_other_options_are_refused(name: str, said: str, tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(ExportError) as caught:
        parse_name(Path(name))
    assert said in str(caught.value)
    (tmp_path / "labels.jsonl").write_text('{"image": "p.png", "prompt": "?", "task": "ocr", "answers": ["a"]}\n')
    shutil.copyfile(HELDOUT / "simple_0001.png", tmp_path / "p.png")
    done = CliRunner().invoke(cli, ["compare", name, "c", *options])
    assert isinstance(done.exception, ExportError) and said in str(done.exception)


def test_models_of_one_bundle(reference_bundle: Path) -> None:
    """Their titles and keys differ; without an option the key is that of earlier versions."""
    names = [reference_bundle, *(Path(f"{reference_bundle}@prune={rule}") for rule in ("scan", "8", "exact", "off"))]
    models = open_models(names[0], names[1:], hf=False)
    title = reference_bundle.name
    assert [model.title for model in models] == [
        title,
        *(f"{title}@prune={rule}" for rule in ("scan", "scan (2)", "exact", "off")),
    ]
    assert len({model.key for model in models}) == 4 and models[1].key == models[2].key
    assert [model.rule() for model in models] == [OFF, RULES["scan"], RULES["scan"], RULES["exact"], OFF]
    assert {model.path for model in models} == {reference_bundle}
    results = [model.result(reference_bundle, "none") for model in models]
    assert (
        results[1].precisions
        == f"{results[0].precisions}, prune scan"
        != results[4].precisions
        == results[0].precisions
    )


def test_a_recorded_rule_holds_unless_the_name_has_one(reference_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(reference_bundle, tmp_path / "copy")
    manifest = read_manifest(copy)
    image = msgspec.structs.replace(manifest.image, prune=3)
    (copy / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, image=image)))
    models = open_models(copy, (Path(f"{copy}@prune=off"),), hf=False)
    assert [model.rule() for model in models] == [Rule(3.0), OFF]


def test_pytorch_and_models_of_one_image_size_see_whole_pages(bundle: Any, reference_bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"PyTorch always sees whole pages \(leave @prune=scan out\)$"):
        open_models(Path(f"{REFERENCE}@prune=scan"), (reference_bundle,), hf=True)
    with pytest.raises(ExportError, match=r"sees every image in .* \(leave @prune=scan out\)$"):
        open_models(reference_bundle, (Path(f"{bundle('qwen', 'small', 'fp32')}@prune=scan"),), hf=False)


def pruned(report: Report) -> Report:
    """The report if the bundle had left out three quarters of the tokens."""
    own = report.bundles[0]
    speed = msgspec.structs.replace(own.speed, image_tokens=100.0, pruned_tokens=300.0)
    whole = msgspec.structs.replace(report.reference.speed, image_tokens=400.0, pruned_tokens=0.0)
    return msgspec.structs.replace(
        report,
        reference=msgspec.structs.replace(report.reference, speed=whole),
        bundles=[msgspec.structs.replace(own, speed=speed)],
    )


def test_reports_show_tokens_only_if_some_were_left_out(tmp_path: Path) -> None:
    plain = small_report(tmp_path, 40, 0)
    for text in (markdown(plain), html(plain)):
        assert "image tokens" not in text
    found = pruned(plain)
    head, reference, other = (line for line in markdown(found).splitlines() if line.startswith("| "))
    assert head.endswith("| image tokens |")
    assert reference.endswith("| 400 |") and other.endswith("| 100, 75.0 % left out |")
    assert html(found).count("against image tokens per item") == 2 * len(found.tasks)


@pytest.mark.slow
def test_a_pruned_bundle_is_compared(reference_bundle: Path, tmp_path: Path) -> None:
    labels = [json.loads(line) for line in (HELDOUT / "labels.jsonl").read_text("utf-8").splitlines()][:3]
    (tmp_path / "set").mkdir()
    for label in labels:
        shutil.copyfile(HELDOUT / label["image"], tmp_path / "set" / label["image"])
    (tmp_path / "set" / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels), "utf-8")
    options = [
        "--data",
        str(tmp_path / "set"),
        "--out",
        str(tmp_path / "out"),
        "--threads",
        "1",
        "--max-new-tokens",
        "8",
    ]

    def compare(*names: str) -> tuple[dict[str, Any], str]:
        arguments = ["compare", *(f"{reference_bundle}{name}" for name in names), *options, "--json"]
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return json.loads(done.stdout), done.stderr

    first, progress = compare("", "", "@prune=255", "@prune=off")
    same, most, off = first["bundles"]
    assert (
        same["speed"]["pruned_tokens"]
        == off["speed"]["pruned_tokens"]
        == first["reference"]["speed"]["pruned_tokens"]
        == 0
    )
    assert most["speed"]["pruned_tokens"] > most["speed"]["image_tokens"] > 0
    assert most["speed"]["pruned_tokens"] + most["speed"]["image_tokens"] == pytest.approx(
        off["speed"]["image_tokens"], abs=0.2
    )
    assert off["agreement"]["same_top"] == 1 > most["agreement"]["same_top"]
    assert most["title"] not in first["blame"] and f"{most['title']} is not traced: it leaves out" in progress
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("work/*/*.jsonl")}
    again, _ = compare("", "@prune=255")
    assert again["bundles"][0]["scores"] == most["scores"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("work/*/*.jsonl")} == records


def test_rules_of_a_sweep() -> None:
    assert parse_prune(None) == ()
    assert parse_prune("off, exact,scan,8,2.5") == ("off", "exact", "scan", 2.5)
    with pytest.raises(ConfigError, match=r"^--prune must be .*, got 'exakt' \(such as off,exact,scan\)$"):
        parse_prune("off,exakt")


def test_a_sweep_of_a_model_that_sees_whole_images_is_refused_before_it_exports(
    checkpoint: Callable[[str, str], Path], tmp_path: Path
) -> None:
    source = str(checkpoint("qwen", "small"))
    plan = SweepPlan(source, (100_352,), ("fp16",), HELDOUT, tmp_path / "out", prune=("off", "scan"))
    with pytest.raises(ExportError, match=r"^family qwen sees every image in .* \(leave --prune out\)$"):
        export_bundles(plan, NullProgress())
    assert not (tmp_path / "out").exists()


def test_a_sweep_has_every_rule_of_every_bundle(tmp_path: Path) -> None:
    labels = tmp_path / "set" / "labels.jsonl"
    labels.parent.mkdir()
    labels.write_text('{"image": "p.png", "prompt": "?", "task": "ocr", "answers": ["a"]}\n')
    shutil.copyfile(HELDOUT / "simple_0001.png", labels.with_name("p.png"))
    plan = SweepPlan(
        str(REFERENCE), (100_352, 50_176), ("fp16",), labels.parent, tmp_path / "out", prune=("off", "scan")
    )
    found = export_bundles(plan, NullProgress())
    first = tmp_path / "out" / "bundles" / "fp16-100352"
    other = first.with_name("fp16-50176")
    assert found == [first, Path(f"{first}@prune=scan"), other, Path(f"{other}@prune=scan")]
    assert sorted(path.name for path in first.parent.iterdir() if path.is_dir()) == [first.name, other.name]
    assert [model.rule() for model in open_models(found[0], found[1:], hf=False)] == [OFF, RULES["scan"]] * 2
    one = replace(plan, pixels=(100_352,), prune=("scan",))
    with pytest.raises(
        ExportError, match=r"at least two combinations \(add values to --pixels, --precisions or --prune"
    ):
        export_bundles(one, NullProgress())
