"""What converters and parsers of edge engines read of portable graphs; the table of docs/interop.md.

    python -m tests.bench.parsers graphs CHECKPOINT DIR                 # exports of several opsets, and fixed ones
    python -m tests.bench.parsers try NAME DIR [--python VENV/bin/python]

NAME is one of PARSERS. Its packages are installed by hand into a virtual environment of its own, whose Python runs the
trial; each graph gets a process and ten minutes. Prints a row of a Markdown table per graph, with the parser's own
message where it does not read one. Nothing here needs a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

LIMIT = 600
GRID = 6, 10
"""Rows and columns of image tokens in graphs with fixed shapes."""
TOKENS, PAST = 8, 64
FORMS: dict[str, tuple[int, str, str]] = {
    "opset 17, fp32": (17, "concat", "fp32"),
    "opset 17, fp16": (17, "concat", "fp16"),
    "opset 20, fp16": (20, "concat", "fp16"),
    "opset 23, fp16": (23, "concat", "fp16"),
    "opset 24, fp16": (24, "scatter", "fp16"),
}
"""Opset, form of the cache and precision of the exports."""


@dataclass(frozen=True)
class Parser:
    """A parser: the package whose version is printed, and a program that gets a graph and a scratch directory."""

    package: str
    program: str


PARSERS = {
    "onnxruntime": Parser("onnxruntime", "import onnxruntime as o; o.InferenceSession(graph)"),
    "openvino": Parser("openvino", "import openvino as o; c = o.Core(); c.compile_model(c.read_model(graph), 'CPU')"),
    "mnn": Parser(  # its command sends statistics home, and this function does not
        "mnn",
        "import os, subprocess, sys\n"
        "out, tool = scratch + '/m.mnn', 'import sys, _tools; _tools.mnnconvert(sys.argv)'\n"
        "words = ['-f', 'ONNX', '--modelFile', graph, '--MNNModel', out, '--bizCode', 'x']\n"
        "done = subprocess.run([sys.executable, '-c', tool, *words], capture_output=True, text=True)\n"
        "said = (done.stdout + done.stderr).splitlines()\n"
        "problems = [line for line in said if 'rror' in line or 'not support' in line.lower()]\n"
        "assert os.path.exists(out) and not problems, (problems or said[-1:] or ['no output'])[0]\n",
    ),
    "onnx2tf": Parser(
        "onnx2tf",
        "import onnx, onnx2tf\n"
        "names = [value.name for value in onnx.load(graph, load_external_data=False).graph.input]\n"
        "onnx2tf.convert(input_onnx_file_path=graph, output_folder_path=scratch, non_verbose=True,\n"
        "                keep_shape_absolutely_input_names=names)\n"
        "import glob; from ai_edge_litert.interpreter import Interpreter\n"
        "files = [name for name in glob.glob(scratch + '/*_float32.tflite')]\n"
        "Interpreter(model_path=files[0]).get_signature_list()",
    ),
    "rknn-toolkit2": Parser(
        "rknn-toolkit2",
        "import onnx; from rknn.api import RKNN\n"  # it gets the sizes of the fixed graph, and sets free axes to them
        "fixed = onnx.load(graph.removesuffix('.fixed.onnx').removesuffix('.onnx') + '.fixed.onnx', "
        "load_external_data=False).graph\n"
        "sizes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in fixed.input}\n"
        "r = RKNN(verbose=False); r.config(target_platform='rk3588')\n"
        "done = r.load_onnx(model=graph, inputs=[*sizes], input_size_list=[*sizes.values()])\n"
        "assert done == 0, 'load_onnx failed'\n"
        "assert r.build(do_quantization=False) == 0, 'build failed'\n"
        "assert r.init_runtime() == 0, 'the simulator does not start'",
    ),
    "tensorrt-rtx": Parser(
        "tensorrt_rtx",
        "import tensorrt_rtx as t\n"
        "log = t.Logger(t.Logger.ERROR); b = t.Builder(log); n = b.create_network(0); p = t.OnnxParser(n, log)\n"
        "assert p.parse_from_file(graph), ' '.join(p.get_error(0).desc().splitlines()[:2])",
    ),
}


def write_graphs(checkpoint: Path, directory: Path) -> None:
    """Exports CHECKPOINT in all forms, and writes `vision.fixed.onnx` and `llm.fixed.onnx` beside each graph."""
    from qvl_export import ExportPlan, export
    from qvl_export.exporting.options import GraphOptions

    for name, (opset, cache, precision) in FORMS.items():
        out = directory / name.replace(", ", "-").replace(" ", "-")
        export(ExportPlan(checkpoint, out, target="portable", precision=precision, graph=GraphOptions(opset, cache)))
        for graph in ("vision", "llm"):
            fix(out / f"{graph}.onnx", out / f"{graph}.fixed.onnx")


def fix(source: Path, out: Path) -> None:
    """Writes a graph with the axes of its inputs set to one page of GRID tokens, and one chunk of TOKENS tokens."""
    rows, columns = GRID
    sizes = {"frames": 1, "patches": 4 * rows * columns, "image_tokens": TOKENS, "sequence": TOKENS, "wanted": 1}
    windows = -(-rows // 4) * -(-columns // 4)
    sizes |= {"past": PAST, "total": PAST + TOKENS, "windows": windows, "window_slots": windows * 64}
    model = onnx.load(source, load_external_data=False)
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = sizes[axis.dim_param]
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model), out)


def attempts(parser: Parser, python: str, directory: Path) -> Iterator[tuple[str, str]]:
    """Yields each graph's name, and an empty text if the parser reads it, else its message."""
    for graph in sorted(directory.glob("*/*.onnx")):
        with tempfile.TemporaryDirectory() as scratch:
            program = f"graph, scratch = {str(graph)!r}, {scratch!r}\n{parser.program}"
            try:
                done = subprocess.run(
                    [python, "-c", program], capture_output=True, text=True, timeout=LIMIT, cwd=scratch
                )
            except subprocess.TimeoutExpired:
                yield f"{graph.parent.name}/{graph.name}", f"not done after {LIMIT} s"
                continue
        yield f"{graph.parent.name}/{graph.name}", "" if done.returncode == 0 else reason(done.stderr or done.stdout)


def reason(said: str) -> str:
    """What a program's output says from the last line that tells of a failure on, without colors and paths."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|/\S*/", "", line).strip() for line in said.splitlines()]
    lines = [line for line in lines if line] or ["it does not say why"]
    telling = [
        at for at, line in enumerate(lines) if re.search("error|unsupport|not support|fail", line, re.IGNORECASE)
    ]
    return " ".join(lines[(telling or [-1])[-1] :])[:200].replace("|", "/")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    graphs, trial = commands.add_parser("graphs"), commands.add_parser("try")
    graphs.add_argument("checkpoint", type=Path)
    trial.add_argument("name", choices=PARSERS)
    for command in (graphs, trial):
        command.add_argument("directory", type=Path)
    trial.add_argument("--python", default=sys.executable)
    options = parser.parse_args(arguments)
    if options.command == "graphs":
        write_graphs(options.checkpoint, options.directory)
        return
    chosen = PARSERS[options.name]
    ask = f"from importlib.metadata import version; print(version({chosen.package!r}))"
    version = subprocess.run([options.python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    for graph, problem in attempts(chosen, options.python, options.directory.resolve()):
        print(f"| {options.name} {version} | {datetime.date.today()} | {graph} | {problem or 'yes'} |", flush=True)


if __name__ == "__main__":
    main()
