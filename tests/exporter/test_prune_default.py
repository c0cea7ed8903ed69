"""`export --prune`: the rule that a bundle records, that the runtime follows it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qvl_export import ExportPlan, export
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_runtime import load
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.manifest import MANIFEST, SCHEMA_VERSION
from qvl_runtime.prune.rule import OFF, RULES, Rule
from tests.exporter.test_pruned_parity import spotted

RECORDED: dict[Any, Any] = {
    True: "scan",
    "exact": "exact",
    "0": "exact",
    "2.5": 2.5,
    8: "scan",
    "off": "off",
    False: "off",
}
WITHOUT = "without a value it goes last, or before another option"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


@pytest.mark.parametrize("given", RECORDED)
def test_rules_are_recorded_by_name(given: Any) -> None:
    plan = ExportPlan("a", "b", prune=given)
    assert plan.default_prune == RECORDED[given]
    assert plan.recorded() == {"prune": RECORDED[given]}


def test_nothing_is_recorded_unless_asked() -> None:
    assert ExportPlan("a", "b").recorded() == {}
    assert ExportPlan("a", "b").default_prune is None


@pytest.mark.parametrize(("options", "expected"), [(["--prune"], "scan"), (["--prune=2.5", "--quiet"], 2.5)])
def test_the_runtime_follows_the_recorded_rule(
    checkpoint: Any, tmp_path: Path, options: list[str], expected: Any
) -> None:
    out = tmp_path / "out"
    done = run(checkpoint("qwen2_5_vl", "small"), out, "--precision", "fp32", *options)
    assert done.exit_code == 0, done.output
    manifest = read_manifest(out)
    assert (manifest.schema_version, manifest.image.prune) == (SCHEMA_VERSION, expected)
    assert manifest.provenance.options["prune"] == expected
    assert f"--prune {expected} by default" in describe(manifest)
    messages = [{"role": "user", "content": [{"type": "image", "image": spotted(400, 300, 1, 3)}]}]
    with load(out, threads=1) as followed, load(out, threads=1, prune="off") as whole:
        assert (followed.prune, whole.prune) == (RULES.get(expected, Rule(2.5)), OFF)
        few, all_tokens = (sum(item.span.tokens for item in m.prompt(messages).placed) for m in (followed, whole))
        assert few < all_tokens


def test_bundles_without_a_rule_leave_out_nothing(bundle: Any) -> None:
    path = bundle("qwen2_5_vl", "small", "fp32")
    assert json.loads((path / MANIFEST).read_text())["image"]["prune"] is None
    assert "prune" not in describe(read_manifest(path))
    with load(path, threads=1) as model:
        assert model.prune is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prune", "exakt"], f"--prune must be off, exact, scan or a number from 0 to 255, got 'exakt' ({WITHOUT})"),
        (["--prune=256"], f"--prune must be off, exact, scan or a number from 0 to 255, got '256' ({WITHOUT})"),
        (
            ["--layout", "genai", "--prune"],
            "--layout genai does not support --prune: GenAI always sees whole pages (leave it out)",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_checkpoint_is_looked_for(
    options: list[str], said: str, tmp_path: Path
) -> None:
    done = run("no-such-checkpoint", tmp_path / "out", *options)
    assert isinstance(done.exception, ExportError) and str(done.exception) == said
    assert not list(tmp_path.iterdir())


def test_a_model_of_one_image_size_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    done = run(checkpoint("qwen", "small"), tmp_path / "out", "--prune=exact")
    assert isinstance(done.exception, ExportError)
    assert "sees every image in" in str(done.exception) and "(leave --prune out)" in str(done.exception)
    assert not list(tmp_path.iterdir())
    export(ExportPlan(checkpoint("qwen", "small"), tmp_path / "out", precision="fp32", prune="off"))
