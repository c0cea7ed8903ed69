"""`python -m qvl_runtime`: its output, its streams, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from click import Group, Option
from click.testing import CliRunner
from PIL import Image

from qvl_export.cli import commands as export_cli
from qvl_export.cli.main import main as export_main
from qvl_runtime import __main__ as cli
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli import bench, inspect
from qvl_runtime.cli import run as answering
from qvl_runtime.cli.main import cli as group
from qvl_runtime.manifest import MANIFEST, FileEntry, Manifest
from qvl_runtime.model import Model, load

COMMANDS = ["run", "inspect", "bench", "serve", "read"]
EXAMPLES = {"run": answering.EXAMPLES, "inspect": inspect.EXAMPLES, "bench": bench.EXAMPLES}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pages") / "page.png"
    pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture(scope="module")
def short(deep_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with room for 90 tokens."""
    copy = tmp_path_factory.mktemp("short")
    for file in deep_path.iterdir():
        if file.name != MANIFEST:
            shutil.copyfile(file, copy / file.name)
    manifest = read_manifest(deep_path)
    llm = msgspec.structs.replace(manifest.llm, max_length=90)
    (copy / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, llm=llm)))
    return copy


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, standard output and standard error of a command, in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return cli.main([str(argument) for argument in arguments]), *capsys.readouterr()

    return run


CUT = "note: the answer was cut off, see --max-new-tokens\n"


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def image(source: Any) -> dict[str, Any]:
    return {"type": "image", "image": source}


def test_run_prints_the_answer(call: Any, deep_path: Path, deep_model: Model, page: Path) -> None:
    expected = deep_model.generate([user(image(str(page)), text("Read."))], max_new_tokens=8)
    assert call("run", deep_path, "Read.", "--image", page, "--max-new-tokens", 8) == (0, expected + "\n", CUT)


def test_the_prompt_may_come_after_options(call: Any, deep_path: Path, page: Path) -> None:
    options = ["--image", page, "--max-new-tokens", 4]
    before = call("run", deep_path, "Read.", *options)
    assert call("run", deep_path, *options, "Read.") == before
    assert call("run", *options, deep_path, "Read.") == before
    code, _, errors = call("run", deep_path, *options, "Read.", "twice")
    assert (code, "unexpected arguments: twice; put the prompt in quotes" in errors) == (2, True)
    code, _, errors = call("run", deep_path, "Read.", *options, "--nonsense")
    assert (code, "No such option" in errors and "--nonsense" in errors) == (2, True)


def test_an_answer_arrives_piece_by_piece(deep_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[tuple[str, bool]] = []
    monkeypatch.setattr("builtins.print", lambda *a, flush=False, **_: printed.append(("".join(a), flush)))
    assert cli.main(["run", str(deep_path), "Read.", "--max-new-tokens", "9"]) == 0
    assert len(printed) > 3
    assert all(flush for _, flush in printed[:-2])  # then the end of the line, and the note that it was cut off


def test_run_json(call: Any, deep_path: Path, deep_model: Model, page: Path) -> None:
    code, out, errors = call("run", deep_path, "Read.", "--image", page, "--max-new-tokens", 6, "--json")
    result = json.loads(out)
    assert (code, errors, out.count("\n")) == (0, "", 1)
    assert set(result) == {"text", "tokens", "finish_reason", "counts", "seconds", "tokens_per_second"}
    expected = {"prompt", "reused", "image", "pruned", "generated", "certain", "proposed", "accepted"}
    assert set(result["counts"]) == expected
    assert set(result["seconds"]) == {"vision", "prefill", "first_token", "decode"}
    assert result["text"] == deep_model.generate([user(image(page), text("Read."))], max_new_tokens=6)
    assert len(result["tokens"]) == result["counts"]["generated"] == 6
    assert result["finish_reason"] == "length"
    assert result["counts"]["image"] == deep_model.encode(page).shape[0]


def test_several_images_and_a_system_message(call: Any, deep_path: Path, deep_model: Model, page: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user(image(page), image(page), text("Same?"))]
    expected = deep_model.generate(messages, max_new_tokens=8)
    options = ["--image", page, "--image", page, "--system", "Be brief.", "--max-new-tokens", 8]
    assert call("run", deep_path, "Same?", *options)[1] == expected + "\n"


def test_pdf_pages(call: Any, deep_path: Path, page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "letter.pdf"
    Image.open(page).save(pdf, save_all=True, append_images=[Image.open(page)] * 2, resolution=300)

    def tokens(*options: object) -> int:
        code, out, _ = call("run", deep_path, "Read.", "--pdf", pdf, *options, "--max-new-tokens", 1, "--json")
        assert code == 0
        return int(json.loads(out)["counts"]["image"])

    assert tokens() == 3 * tokens("--pages", "2") > tokens("--pages", "1,3") > 0
    assert call("run", deep_path, "Read.", "--pdf", pdf, "--pages", "4")[0] == 2
    code, _, errors = call("run", deep_path, "Read.", "--pages", "4")
    assert (code, errors) == (2, "error: --pages needs --pdf\n")


def test_video_frames_and_fps(call: Any, deep_path: Path, deep_model: Model, page: Path, tmp_path: Path) -> None:
    frames = [tmp_path / f"{index}.png" for index in range(4)]
    for index, frame in enumerate(frames):
        Image.new("RGB", (60, 60), (60 * index, 0, 0)).save(frame)
    for fps in (0.5, 4.0):
        messages = [user({"type": "video", "video": [str(frame) for frame in frames], "fps": fps}, text("What?"))]
        expected = deep_model.generate(messages, max_new_tokens=8)
        out = call("run", deep_path, "What?", "--video", tmp_path, "--fps", fps, "--max-new-tokens", 8)[1]
        assert out == expected + "\n"
    assert call("run", deep_path, "What?", "--video", page, "--fps", 0)[0] == 2


def test_sampling_options_reach_the_model(call: Any, deep_path: Path, deep_model: Model) -> None:
    options = {"temperature": 1.5, "top_p": 0.9, "top_k": 30, "seed": 4, "max_new_tokens": 20}
    flags = [item for name, value in options.items() for item in ("--" + name.replace("_", "-"), value)]
    assert call("run", deep_path, "Read.", *flags)[1] == deep_model.generate([user(text("Read."))], **options) + "\n"


def test_template_arguments_reach_the_model(call: Any, deep_path: Path, tmp_path: Path) -> None:
    for file in deep_path.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    source = "{% if loud %}{{ loud * 3 }}{% endif %}{{ messages[0].content[0].text }}"
    (tmp_path / "chat_template.jinja").write_text(source)
    manifest = read_manifest(deep_path)
    files = {**manifest.files, "chat_template.jinja": FileEntry(size=len(source), sha256="0" * 64)}
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, files=files)))
    counts = [
        json.loads(call("run", tmp_path, "x", "--json", "--max-new-tokens", 1, *given)[1])["counts"]["prompt"]
        for given in ([], ["--template-arg", "loud=false"], ["--template-arg", "loud=a b"])
    ]
    assert counts[0] == counts[1] < counts[2]


def test_a_scaled_image_is_noted_in_one_line(call: Any, short: Path, page: Path) -> None:
    big = page.with_name("big.png")
    Image.open(page).resize((600, 400)).save(big)
    code, out, errors = call("run", short, "Read.", "--image", big, "--max-new-tokens", 4)
    assert (code, bool(out)) == (0, True)
    assert errors.startswith("note: images were scaled down to ")
    assert errors.count("\n") == 2
    assert errors.endswith(CUT)


BAD = {
    "no bundle": (["run", "missing", "Read."], "missing: is not a bundle directory"),
    "empty path": (["run", "", "Read."], "error: the path of the bundle is empty\n"),
    "empty path to inspect": (["inspect", ""], "error: the path of the bundle is empty\n"),
    "empty image": (["run", "BUNDLE", "x", "--image", ""], "error: the path is empty\n"),
    "empty pdf": (["run", "BUNDLE", "x", "--pdf", ""], "error: the path is empty\n"),
    "empty video": (["run", "BUNDLE", "x", "--video", ""], "error: the path is empty\n"),
    "empty tools": (["run", "BUNDLE", "x", "--tools", ""], "Invalid value for '--tools': the path is empty (see "),
    "no prompt": (["run", "BUNDLE"], "the prompt is empty"),
    "no image": (["run", "BUNDLE", "x", "--image", "none.png"], "none.png: no such file"),
    "no pdf": (["run", "BUNDLE", "x", "--pdf", "none.pdf"], "none.pdf: no such file"),
    "no frame": (["run", "BUNDLE", "x", "--video", "none.png"], "none.png: no such file"),
    "temperature": (["run", "BUNDLE", "x", "--temperature", "-1"], "temperature must be >= 0, got -1.0"),
    "top-k": (["run", "BUNDLE", "x", "--top-k", "-1"], "top_k must be a whole number >= 0, got -1"),
    "seed": (["run", "BUNDLE", "x", "--temperature", "1", "--seed", "-1"], "seed must be a whole number >= 0, got -1"),
    "too long": (["run", "BUNDLE", "x", "--max-new-tokens", "9999"], "lower --max-new-tokens"),
    "placeholder": (["run", "BUNDLE", "<|image_pad|>"], "do not write"),
    "inspect": (["inspect", "missing"], "missing: is not a bundle directory"),
    "template variable": (["run", "BUNDLE", "x", "--template-arg", "loud=1"], "has no variable 'loud' (it has none)"),
    "template arguments": (["run", "missing", "x", "--template-arg", "loud"], "'loud' is not NAME=VALUE"),
    "prune": (
        ["run", "missing", "x", "--prune", "exakt"],
        "--prune must be off, exact, scan or a number from 0 to 255",
    ),
    "prune's tolerance": (["bench", "missing", "--prune", "256"], "got '256'"),
    "prune takes the prompt": (["run", "missing", "--prune", "Read."], "got 'Read.' (without a value it goes last, or"),
    "bench's template variable": (["bench", "BUNDLE", "--template-arg", "loud=1"], "has no variable 'loud'"),
    "bench": (["bench", "BUNDLE", "--image", "none.png"], "none.png: no such file"),
}
USAGE = {
    "no command": [],
    "unknown command": ["fly"],
    "no bundle": ["run"],
    "zero tokens": ["run", "BUNDLE", "x", "--max-new-tokens", "0"],
    "threads": ["run", "BUNDLE", "x", "--threads", "²"],
    "temperature": ["run", "BUNDLE", "x", "--temperature", "warm"],
    "repeat": ["bench", "BUNDLE", "--repeat", "-1"],
}


@pytest.mark.parametrize(("arguments", "reason"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_code_2(call: Any, deep_path: Path, arguments: list[str], reason: str) -> None:
    code, out, errors = call(*[str(deep_path) if argument == "BUNDLE" else argument for argument in arguments])
    assert (code, out) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert reason in errors


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_code_2(call: Any, deep_path: Path, arguments: list[str]) -> None:
    code, out, errors = call(*[str(deep_path) if argument == "BUNDLE" else argument for argument in arguments])
    assert (code, out) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert "(see python -m qvl_runtime" in errors and "_positive" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ru"], r"No such command 'ru' \((did you mean run\? )?see python -m qvl_runtime --help\)"),
        (["run", "x", "--imag"], r"No such option:? '?--imag'? \(did you mean --image.*\? see .* run --help\)"),
        (["run", "x", "- a"], r"No such option:? '?- '? \(see .* run --help\); a prompt that begins .* goes after --"),
        (["bench", "x", "--a b"], r"No such option:? '?--a b'? \(see .* bench --help\); a prompt that .* after --"),
    ],
    ids=["command", "option", "dash", "two dashes"],
)
def test_the_fix_of_wrong_usage_is_named(call: Any, arguments: list[str], message: str) -> None:
    code, _, errors = call(*arguments)
    assert code == 2 and re.fullmatch(f"error: {message}\n", errors), errors


def test_inspect(call: Any, deep_path: Path, short: Path) -> None:
    code, out, errors = call("inspect", deep_path)
    assert (code, errors) == (0, "")
    for expected in ("qwen2_5_vl for cpu", "8,192 tokens", "pixel_values", "logits", "present.N.key, .value"):
        assert expected in out
    code, out, _ = call("inspect", deep_path, "--json")
    assert (code, msgspec.convert(json.loads(out), Manifest)) == (0, read_manifest(deep_path))


def test_inspect_verify(call: Any, deep_path: Path, tmp_path: Path) -> None:
    code, out, _ = call("inspect", deep_path, "--verify")
    assert (code, "DAMAGED" in out) == (0, False)
    for file in deep_path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / "vision.onnx.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "vision.onnx.data").write_bytes(data)
    code, out, _ = call("inspect", tmp_path, "--verify")
    assert (code, "DAMAGED  vision.onnx.data" in out, out.count("DAMAGED")) == (1, True, 1)
    files = len(read_manifest(deep_path).files)
    assert out.endswith(f"\n1 of {files} files differ from what was written: copy or export the bundle again\n")
    code, out, _ = call("inspect", tmp_path, "--verify", "--json")
    assert code == 1
    assert [name for name, good in json.loads(out)["verified"].items() if not good] == ["vision.onnx.data"]
    assert json.loads(out)["damaged"] == ["vision.onnx.data"]
    code, out, _ = call("inspect", deep_path, "--verify", "--json")
    assert (code, json.loads(out)["damaged"]) == (0, [])
    assert "damaged" not in json.loads(call("inspect", deep_path, "--json")[1])


def test_inspect_verify_of_another_size_is_an_error(call: Any, deep_path: Path, tmp_path: Path) -> None:
    shutil.copytree(deep_path, tmp_path / "copy")
    with (tmp_path / "copy" / "vision.onnx.data").open("ab") as file:
        file.write(b"more")
    code, out, errors = call("inspect", tmp_path / "copy", "--verify")
    assert (code, out) == (2, "") and "vision.onnx.data: is changed: " in errors


def test_bench(call: Any, deep_path: Path, page: Path) -> None:
    options = [deep_path, "--image", page, "--repeat", 2, "--max-new-tokens", 4, "--threads", 1]
    code, out, errors = call("bench", *options, "--json")
    result = json.loads(out)
    assert (code, errors) == (0, "")
    assert result["repeat"] == 2
    assert min(result["image_tokens"], result["peak_memory_mb"], result["seconds"]["prefill"]) > 0
    assert result["seconds"]["vision"] > 0, "every run starts with empty caches"
    code, out, _ = call("bench", *options)
    shown = [line.split()[0] for line in out.splitlines()]
    others = [name for name in result if name not in ("load_seconds", "seconds")]
    assert (code, shown) == (0, ["load", *result["seconds"], *others])


def test_bench_of_one_token_has_no_speed(call: Any, deep_path: Path) -> None:
    options = [deep_path, "Read.", "--max-new-tokens", 1, "--threads", 1]
    assert json.loads(call("bench", *options, "--json")[1])["tokens_per_second"] is None
    code, out, _ = call("bench", *options)
    assert code == 0 and "prompt_tokens" in out and "tokens_per_second" not in out


@pytest.fixture(scope="module")
def mostly_paper(page: Path) -> Path:
    """A page with margins of several blocks on its right and below."""
    paper = Image.new("RGB", (400, 400), "white")
    paper.paste(Image.open(page))
    file = page.with_name("paper.png")
    paper.save(file)
    return file


@pytest.mark.parametrize(("rule", "expected"), [((), None), (("--prune",), True), (("--prune", "exact"), "exact"),
                                                (("--prune=2.5",), 2.5), (("--prune", "off"), "off")])  # fmt: skip
def test_tokens_left_out_are_in_json(
    call: Any, deep_path: Path, mostly_paper: Path, rule: tuple[str, ...], expected: Any
) -> None:
    ask = ["--image", mostly_paper, "--max-new-tokens", 2, "--json"]
    code, out, errors = call("run", deep_path, "Read.", *ask, *rule)
    assert (code, errors) == (0, "")
    with load(deep_path, threads=1, prune=expected) as pruning:
        stream = pruning.stream([{"role": "user", "content": [{"type": "image", "image": mostly_paper},
                                                              {"type": "text", "text": "Read."}]}], 2)  # fmt: skip
        list(stream)
    result = json.loads(out)
    assert result["tokens"] == stream.run.tokens
    assert result["counts"]["pruned"] == stream.run.counts.pruned
    assert bool(stream.run.counts.pruned) == (expected not in (None, "off"))
    code, out, _ = call("bench", deep_path, "Read.", "--repeat", 1, *ask, *rule)
    assert (code, json.loads(out)["pruned_tokens"]) == (0, stream.run.counts.pruned)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(call: Any, command: str | None) -> None:
    code, out, errors = call(*([command] if command else []), "--help")
    assert (code, errors) == (0, "")
    assert out.startswith("Usage: python -m qvl_runtime")
    if command is None:
        assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(("command", "examples"), EXAMPLES.items())
def test_help_ends_with_examples_that_are_commands(call: Any, command: str, examples: list[str]) -> None:
    *_, shown = call(command, "--help")[1].partition("Examples:\n")
    assert [line.strip() for line in shown.splitlines()] == [f"python -m qvl_runtime {example}" for example in examples]
    assert f"python -m qvl_runtime {examples[0]}\n" in call("--help")[1]
    for example in examples:
        name, *arguments = shlex.split(example)
        context = group.commands[name].make_context(name, arguments)
        assert (name, context.params["bundle"]) == (command, Path("bundle"))


def test_help_of_qvl_export_ends_with_examples_that_are_commands() -> None:
    done = CliRunner().invoke(export_cli.cli, ["--help"])
    for example in export_cli.EXAMPLES:
        assert f"  qvl-export {example}\n" in done.output
        command: Any = export_cli.cli
        name, *arguments = shlex.split(example)
        while isinstance(command, Group):
            command = command.commands[name]
            if isinstance(command, Group):
                name, *arguments = arguments
        command.make_context(name, arguments)


def test_every_option_is_explained() -> None:
    assert sorted(group.commands) == sorted(COMMANDS)
    for name, command in group.commands.items():
        unexplained = [item.name for item in command.params if isinstance(item, Option) and not item.help]
        assert not unexplained, name


def test_qvl_export_runs_bundles_alike(
    call: Any, deep_path: Path, page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", str(deep_path), "--image", str(page), "Read.", "--max-new-tokens", "6"]
    bad = ["run", str(deep_path), "x", "--image", "none.png"]
    dashes = ["run", str(deep_path), "--max-new-tokens", "2", "--", "--json"]
    for arguments in (run, bad, dashes, ["inspect", str(deep_path), "--json"]):
        expected = call(*arguments)
        monkeypatch.setattr(sys, "argv", ["qvl-export", *arguments])
        code: object = 0
        try:
            export_main()
        except SystemExit as stop:
            code = stop.code
        assert (code, *capsys.readouterr()) == expected
    monkeypatch.setattr(sys, "argv", ["qvl-export", "run", "--help"])
    export_main()
    assert capsys.readouterr().out.startswith("Usage: qvl-export run")


def test_as_a_process(deep_path: Path, deep_model: Model, page: Path) -> None:
    expected = deep_model.generate([user(image(page), text("读出文字"))], max_new_tokens=6)
    command = [
        sys.executable,
        "-m",
        "qvl_runtime",
        "run",
        deep_path,
        "读出文字",
        "--image",
        page,
        "--max-new-tokens",
        "6",
    ]
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, cwd="/", timeout=60)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, expected + "\n", CUT.encode())
    poor = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}  # a terminal that cannot show the answer
    done = subprocess.run([*command, "--json"], capture_output=True, env=poor, cwd="/", timeout=60)
    assert (done.returncode, done.stderr, json.loads(done.stdout)["finish_reason"]) == (0, b"", "length")


@pytest.mark.parametrize(
    "arguments", [["run", "BUNDLE", "Read.", "--max-new-tokens", "9"], ["inspect", "BUNDLE"], ["run", "--help"]]
)
def test_a_reader_that_goes_away(deep_path: Path, arguments: list[str]) -> None:
    """As `head -c 1` does: no traceback, no error."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        "-m",
        "qvl_runtime",
        *[str(deep_path) if item == "BUNDLE" else item for item in arguments],
    ]
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_draw(call: Any, reference_bundle: Path, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "calib_data" / "heldout" / "simple_0000.png"
    drawn = tmp_path / "drawn.png"
    run = ["run", reference_bundle, "--image", page, "--draw"]
    code, out, errors = call(*run, drawn, "Locate the city.", "--json")
    (region,) = json.loads(out)["regions"]
    assert (code, errors, set(region)) == (0, "", {"label", "x1", "y1", "x2", "y2"})
    before, after = (np.asarray(Image.open(file).convert("RGB")) for file in (page, drawn))
    assert before.shape == after.shape and (before != after).any()
    code, out, errors = call(*run, drawn, "Read the text.")
    assert (code, errors) == (0, f"note: the answer has no boxes, {drawn} is the page alone\n")
    assert np.array_equal(np.asarray(Image.open(drawn)), before)
    for arguments, reason in (
        ([*run, tmp_path / "drawn.doc", "x"], "does not have the extension of an image format"),
        ([*run, drawn, "x", "--image", page], "needs exactly one image"),
        (["run", reference_bundle, "--draw", drawn, "x"], "needs exactly one image"),
        ([*run, tmp_path / "missing" / "x.png", "Locate the city."], "missing: directory not found (create it"),
    ):
        code, _, errors = call(*arguments)
        assert (code, errors.count("\n"), reason in errors) == (2, 1, True), errors


def test_a_long_prompt_may_follow_a_video(call: Any, deep_path: Path, tmp_path: Path) -> None:
    frame = tmp_path / "1.png"
    Image.new("RGB", (60, 60)).save(frame)
    code, _, errors = call("run", deep_path, "--video", frame, "What happens? " * 40, "--max-new-tokens", 1, "--json")
    assert code == 0, errors  # longer than a file's name can be


def test_a_schema_that_is_null_is_none(call: Any, deep_path: Path, tmp_path: Path) -> None:
    for text in ("null", "[]"):
        (tmp_path / "schema.json").write_text(text)
        code, _, errors = call("run", deep_path, "Say it.", "--json-schema", tmp_path / "schema.json")
        assert code == 2 and errors.count("\n") == 1, errors


def test_tools_and_schemas(call: Any, deep_path: Path, deep_model: Model, tmp_path: Path) -> None:
    tools, schema = tmp_path / "tools.json", tmp_path / "schema.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "find", "parameters": {}}}]))
    schema.write_text(json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}))
    options = ["run", deep_path, "Read.", "--max-new-tokens", 6]
    described = json.loads(call(*options, "--tools", tools, "--json")[1])
    assert described["text"] == deep_model.generate([user(text("Read."))], 6, tools=json.loads(tools.read_text()))
    assert (described["tool_calls"], described["malformed_tool_calls"]) == ([], [])
    code, out, errors = call(*options, "--json-schema", schema)
    assert (code, type(json.loads(out)["a"])) == (0, int)
    assert errors in ("", CUT.replace("cut off", "cut off and closed"))
    schema.write_text("{")
    assert call(*options, "--json-schema", schema)[2].startswith(f"error: {schema}: is not JSON")
    assert call(*options, "--tools", tmp_path / "none.json")[2].endswith("none.json: no such file\n")


def test_malformed_calls_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    found = answering.tool_calls('<tool_call>{"name": "f"}</tool_call><tool_call>f(\n1)</tool_call>')
    assert found == {"tool_calls": [{"name": "f", "arguments": {}}], "malformed_tool_calls": ["f(\n1)"]}
    assert capsys.readouterr().err == "note: a malformed tool call: f( 1)\n"


def test_a_video_file(call: Any, deep_path: Path, deep_model: Model, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for index in range(40):
            frame = np.full((96, 160, 3), 6 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    for options in ({}, {"fps": 1.0}, {"fps": 4.0, "max_frames": 6}):
        video = {"type": "video", "video": str(film), **options}
        expected = deep_model.generate([user(video, text("What?"))], max_new_tokens=6)
        flags = [item for name, value in options.items() for item in ("--" + name.replace("_", "-"), value)]
        assert call("run", deep_path, "--video", film, "What?", *flags, "--max-new-tokens", 6)[1] == expected + "\n"
    assert (
        call("run", deep_path, "--video", tmp_path / "none.mp4", "x")[2]
        == f"error: {tmp_path}/none.mp4: no such file\n"
    )


def test_medians_of_an_even_number_of_runs_are_rounded() -> None:
    runs = [
        {"seconds": {"decode": seconds}, "tokens_per_second": speed, "counts": {"prompt": 1, "image": 0, "pruned": 0}}
        for seconds, speed in ((0.0167, 59.87), (0.0169, 60.02))
    ]
    found = bench._medians([0.1, 0.2], runs)
    assert (found["seconds"]["decode"], found["tokens_per_second"]) == (0.0168, 59.95)
