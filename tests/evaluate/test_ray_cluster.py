"""A comparison on a Ray cluster of two machines (two nodes on this one) finds what one process finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.evaluate.answers.records import Records
from qvl_export.jobs.open_pool import check_pool, open_pool
from qvl_export.jobs.ray_cluster import RayPool
from qvl_runtime.bundle import sha256
from tests.evaluate.test_blame import damage
from tests.heldout import first_pages

pytestmark = pytest.mark.slow

PAGES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_pages(tmp_path_factory.mktemp("set"), PAGES)


def answers(out: Path, prefix: str, items: int) -> list[dict[str, Any]]:
    """Every record of a model without its times."""
    (work,) = (out / "work").iterdir()
    names = {path.name.split(".")[0] for path in work.glob("*.jsonl")}
    (name,) = (name for name in names if name.startswith(prefix) and "threads" not in name)
    records = Records(work, name)
    found = [msgspec.to_builtins(records.answered(index)) for index in range(items)]
    for record in found:
        for timed in ("first_token_seconds", "decode_seconds", "fresh"):
            record.pop(timed, None)
    return found


def test_two_machines_answer_as_one_process(
    ray_cluster: str, reference_bundle: Path, data: Path, tmp_path: Path
) -> None:
    other = damage(reference_bundle, tmp_path / "other", 2)
    found = {}
    for name, options in (("alone", ["--threads", "1"]), ("spread", ["--ray", ray_cluster])):
        out = tmp_path / name
        command = ["compare", reference_bundle, other, "--data", data, "--out", out, "--no-blame", "--json", "--quiet"]
        done = CliRunner().invoke(cli, [*map(str, command), "--max-new-tokens", "20", *options], catch_exceptions=False)
        found[name] = json.loads(done.stdout)
    items = found["alone"]["items"]
    for model in ("reference-", sha256(other / "bundle.json")[:12]):
        assert answers(tmp_path / "alone", model, items) == answers(tmp_path / "spread", model, items)
    assert found["alone"]["bundles"][0]["scores"] == found["spread"]["bundles"][0]["scores"]
    assert found["alone"]["bundles"][0]["agreement"]["same_answers"] < items
    ranks = {path.name.split(".")[1] for path in tmp_path.glob("spread/work/*/*.jsonl")}
    assert ranks == {"0", "1"}


def test_a_failing_job_is_one_line(ray_cluster: str, tmp_path: Path) -> None:
    class Job(msgspec.Struct):
        pass

    with open_pool(ray_cluster) as pool:
        assert (pool.machines, pool.cores) == (2, 2)
        with pytest.raises(ExportError, match="No module named"):
            pool.run("qvl_export.evaluate.nothing", [Job(), Job()], 1, lambda _: None)


def test_a_missing_cluster_is_one_line() -> None:
    with pytest.raises(ExportError, match="no Ray cluster answers"), open_pool("127.0.0.1:1"):
        pass


def test_without_ray_or_a_message_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(ExportError, match=r"^auto: no Ray cluster answers: RuntimeError"), open_pool("auto"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    for ask in (check_pool, lambda address: open_pool(address).__enter__()):
        with pytest.raises(ExportError, match="--ray needs ray"):
            ask("auto")


@pytest.mark.parametrize("nodes", [[], [{"Alive": True, "Resources": {}}]])
def test_a_cluster_without_cores_is_one_line(nodes: list[dict[str, Any]]) -> None:
    with pytest.raises(ExportError, match="has no cores"):
        RayPool(SimpleNamespace(nodes=lambda: nodes))
