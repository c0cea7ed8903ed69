"""Plans: options in groups, values of wrong types, and what a bundle records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_export import CalibrationOptions, EngineOptions, ExportError, ExportPlan, QuantOptions
from qvl_export.cli.commands import cli
from qvl_export.exporting.plan import GROUP_OF, RECORDED, grouped
from tests.plans import export_plan

OWN = {"max_size", "accuracy_level"}
"""Options that the command converts itself."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 4}, "precision must be text, got 4"),
        ({"target": None}, "target must be text, got None"),
        ({"force": "yes"}, "force must be True or False, got 'yes'"),
        ({"max_pixels": 1e6}, "max_pixels must be a whole number or None, got 1000000.0"),
        ({"samples": "8"}, "samples must be a whole number, got '8'"),
        ({"samples": True}, "samples must be a whole number, got True"),
        ({"block_size": np.int64(32)}, "block_size must be a whole number or None, got "),
        ({"max_kl": float("nan")}, "max_kl must be a number or None, got nan"),
        ({"max_kl": "0.1"}, "max_kl must be a number or None, got '0.1'"),
        ({"calib": None}, "calib must be text or a path or a list of text or a path, got None"),
        ({"calib": [Path("a"), 3]}, "calib must be text or a path or a list of text or a path, got "),
        ({"save_gptq": 1}, "save_gptq must be text or a path or None, got 1"),
        ({"given": ["samples"]}, "given must be a frozenset of text, got "),
    ],
    ids=str,
)
def test_a_value_of_a_wrong_type_is_refused_with_its_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError) as error:
        export_plan("checkpoint", "out", **options)
    assert str(error.value).startswith(message)


def test_checkpoint_out_and_groups_have_types_too() -> None:
    wrong: Any = {}
    with pytest.raises(ExportError, match="out must be text or a path, got None"):
        ExportPlan("checkpoint", wrong.get("out"))
    with pytest.raises(ExportError, match="quant must be an instance of QuantOptions, got "):
        ExportPlan("checkpoint", "out", quant=wrong)
    with pytest.raises(ExportError, match=r"checkpoint must be text or a path, got b'x{58}…$"):
        ExportPlan(wrong or b"x" * 100, "out")  # type: ignore[arg-type]


def test_values_of_every_type_that_fits_are_taken() -> None:
    plan = export_plan(Path("a"), "b", calib=["x", Path("y")], max_kl=1, save_gptq=Path("g"), target="tensorrt-rtx")
    assert plan.calibration.calib == ["x", Path("y")] and plan.target == "tensorrt_rtx"


def test_options_find_their_groups() -> None:
    plan = ExportPlan(
        "a",
        "b",
        precision="int8",
        quant=QuantOptions(block_size=64),
        calibration=CalibrationOptions(samples=3, threads=1),
        engine=EngineOptions(profile="video"),
        given=frozenset({"cpu"}),
    )
    assert plan == export_plan(
        "a", "b", precision="int8", block_size=64, samples=3, threads=1, profile="video", given=plan.given
    )
    assert grouped({"samples": 3})["calibration"] == CalibrationOptions(samples=3)
    asked = {name for name in ("precision", *GROUP_OF) if plan.is_asked(name)}
    assert asked == {"precision", "block_size", "samples", "threads", "profile", "cpu"}
    assert plan.recorded() == {"precision": "int8", "block_size": 64, "samples": 3}


def test_every_grouped_option_is_one_of_the_command() -> None:
    names = {parameter.name for parameter in cli.commands["export"].params}
    assert set(GROUP_OF) <= names and set(RECORDED) <= names
    assert set(GROUP_OF) >= OWN
