"""Everything that the documents name exists: links, anchors, commands, options, files, modules, names in snippets."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from qvl_export import targets
from qvl_export.cli.commands import cli
from qvl_export.evaluate.metrics.scores import METRICS, TASKS
from qvl_export.quant import schemes

ROOT = Path(__file__).parents[1]
LEFT_OUT = {"build", "demo_out", "dist", "node_modules"}
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in LEFT_OUT for part in path.relative_to(ROOT).parts)
)
HISTORY = {"CHANGELOG.md", "decisions.md"}
"""These name what is gone, too."""
CURRENT = [path for path in DOCUMENTS if path.name not in HISTORY]
FOLDERS = (".", "exporter", "exporter/qvl_export", "runtimes/python", "runtimes/python/qvl_runtime", "calib_data")
"""Paths in documents are relative to one of these, or to the document."""
WRITTEN = {"index.html", "report.md", "report.json", "out.py", "my_scans", "may", "bundle"}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FILE = re.compile(r"(?:[\w.-]+/)+[\w-]+\.(?:py|md|json|sh|onnx|toml)")
OTHERS = {
    *("--find-links", "--no-index", "--no-deps", "--wheel-dir"),  # pip
    *("--nproc-per-node", "--minutes", "--tokens", "--rate", "--init", "--glyphs", "--bfloat16"),  # tests.checkpoints
    *("--warm-up", "--taught", "--zero-state"),  # likewise
    *("--kind", "--count", "--seed", "--task", "--degrade"),  # calib_data.generator
    *("--blocks", "--layers", "--part", "--repeat", "--pages", "--cores", "--margin"),  # tests.bench
    *("--frames", "--rules", "--python", "--other", "--family"),  # likewise
    *("--before", "--cache", "--growth", "--shape", "--rounds", "--peer"),  # tests.bench.peers
    *("--fp16", "--int8"),  # trtexec
    "--weight-format",  # optimum-cli
}
"""Options of other programs that documents name."""


def text(path: Path) -> str:
    return path.read_text("utf-8")


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return BLOCK.sub("", text(path))


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Anchors of a document's headings, as GitHub builds them."""
    shown = [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in re.findall(r"^#+ (.+)$", prose(path), re.M)
    ]
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown]
    earlier = [slugs[:index].count(slug) for index, slug in enumerate(slugs)]
    return frozenset(f"{slug}-{count}" if count else slug for slug, count in zip(slugs, earlier, strict=True))


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_and_anchors_resolve(path: Path) -> None:
    for target in ("".join(groups) for groups in LINK.findall(prose(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@cache
def exporter_options() -> dict[str, frozenset[str]]:
    """The options of every command of the exporter, by the command's name, such as `eval build`."""
    found: dict[str, frozenset[str]] = {}

    def collect(command: click.Command, words: tuple[str, ...]) -> None:
        found[" ".join(words)] = frozenset(OPTION.findall(command.get_help(click.Context(command))))
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                collect(inner, (*words, name))

    collect(cli, ())
    return found


@cache
def runtime_options() -> dict[str, frozenset[str]]:
    """The options of every command of the runtime."""
    ask = (sys.executable, "-m", "qvl_runtime")
    return {name: helped((*ask, name)) for name in ("run", "inspect", "bench")}


def helped(command: tuple[str, ...]) -> frozenset[str]:
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=120)
    return frozenset(OPTION.findall(done.stdout))


def options(words: list[str]) -> tuple[str, frozenset[str]] | None:
    """The command that a line begins with, and its options; None if it is not a command of this project."""
    if words[:3] == ["python", "-m", "qvl_runtime"] and len(words) > 3:
        return words[3], runtime_options()[words[3]]
    if words[:1] != ["qvl-export"] or len(words) < 2:
        return None
    named = " ".join(words[1:3]) if words[1] in ("calib", "eval") else words[1]
    return named, runtime_options().get(named, frozenset()) | exporter_options()[named]


def command_lines(path: Path) -> Iterator[str]:
    """Lines of shell blocks, continued ones as one, and inline code."""
    for language, block in BLOCK.findall(text(path)):
        if language in ("", "console", "sh", "bash"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from SPAN.findall(prose(path))


@pytest.mark.parametrize("path", CURRENT, ids=names(CURRENT))
def test_commands_have_the_options_that_they_are_shown_with(path: Path) -> None:
    for line in command_lines(path):
        line = re.sub(r"^(\w*\$ |\. \S+ && )", "", line.strip())
        if not line.startswith(("qvl-export ", "python -m qvl_runtime ")):
            continue
        found = options(shlex.split(line.split("|")[0], comments=True))
        assert found is None or set(OPTION.findall(line)) <= found[1], line


@pytest.mark.parametrize("path", CURRENT, ids=names(CURRENT))
def test_options_exist(path: Path) -> None:
    known = frozenset().union(*exporter_options().values(), *runtime_options().values())
    named = {option for span in SPAN.findall(prose(path)) for option in OPTION.findall(span)}
    assert named - known <= OTHERS


@pytest.mark.parametrize("path", CURRENT, ids=names(CURRENT))
def test_files_and_modules_exist(path: Path) -> None:
    code = [*SPAN.findall(prose(path)), *(block for _, block in BLOCK.findall(text(path)))]
    for name in {file for span in code for file in FILE.findall(span)}:
        if (
            re.search(r"\b(test_)?(NAME|MODULE)\.", name)
            or name.split("/")[0].isupper()
            or name.split("/")[0] in WRITTEN
        ):
            continue
        assert any((root / name).exists() for root in (path.parent, *(ROOT / folder for folder in FOLDERS))), name
    for module in {name for span in code for name in re.findall(r"python -m ((?:tests|calib_data|qvl_)[\w.]*)", span)}:
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", CURRENT, ids=names(CURRENT))
def test_python_snippets_import_what_exists(path: Path) -> None:
    for language, block in BLOCK.findall(text(path)):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qvl_"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), block


@pytest.mark.parametrize("name", [*schemes.available(), *targets.available()])
def test_schemes_and_targets_are_documented(name: str) -> None:
    """In the document of exports, in the help, and schemes in README.md, which gives targets their products' names."""
    shown = cli.commands["export"].get_help(click.Context(cli.commands["export"]))
    places = {"docs/exporting.md": text(ROOT / "docs" / "exporting.md"), "export --help": shown}
    if name in schemes.available():
        places["README.md"] = text(ROOT / "README.md")
    named = re.compile(rf"(?<![\w-]){name.replace('_', '-')}(?![\w-])")
    assert [place for place, content in places.items() if not named.search(content)] == []


def test_the_metrics_of_tasks_are_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]+) \|$", text(ROOT / "docs" / "report.md"), re.M)
    listed = {task: ", ".join(METRICS[name].title for name in metrics).casefold() for task, metrics in TASKS.items()}
    assert {task: metrics.casefold() for task, metrics in rows} == listed


def test_the_index_of_decisions_is_right() -> None:
    """Every record has a number in order, a date and a status, which its line in the index repeats."""
    decisions = text(ROOT / "docs" / "decisions.md")
    listed = re.findall(r"^\| \[(\d{3})\]\(#(\S+)\) \| (.+) \| (\d{4}-\d\d-\d\d) \| (.+) \|$", decisions, re.M)
    records = re.findall(r"^## (\d{3}) (.+)\nDate: (\d{4}-\d\d-\d\d) · Status: (.+)$", decisions, re.M)
    assert [(number, *rest) for number, _, *rest in listed] == records
    assert [int(number) for number, *_ in records] == list(range(1, len(records) + 1))
    assert len(records) == len(re.findall(r"^## ", decisions, re.M))
    assert all(number == anchor[:3] for number, anchor, *_ in listed)
    for record in re.split(r"^## ", decisions, flags=re.M)[1:]:
        assert re.search(r"Status: (accepted|superseded by \[\d{3}\]\(#\S+\))$", record, re.M), record[:60]
        assert [*re.findall(r"^- \*\*(\w+)\.\*\*", record, re.M)] == ["Context", "Decision", "Consequences"], record[
            :60
        ]
        assert record.count("\n") <= 30, record[:60]
