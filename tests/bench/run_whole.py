"""Loading a bundle and answering about a page: seconds of loading against reading its files, and peak memory.

    python -m tests.bench.run_whole [--blocks N] [--threads 2] [--precisions fp16,int8,int4,hybrid] [--repeat 5]

Random weights in the shape of Qwen2-VL-2B, in a process of its own every time, precisions in turns, medians. Files are
read from the page cache: `read` into new memory, which the system gives page by page, `scan` through a buffer of 1 MiB.
`load` is all of `load()`, `texts` its tokenizer and template alone. Then a page of 5,040 patches, a prompt of 1,300
tokens of which 1,260 are image tokens, and an answer of 64; megabytes are the most that the process held until then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from tests.plans import export_plan

from .random_bundle import export_random
from .random_checkpoint import make
from .run_speed import LLM_SHAPE, cpu


def measure(what: str, bundle: Path, threads: int) -> dict[str, float]:
    """The result of a function of `whole_process`, in a process of its own."""
    command = [sys.executable, "-m", f"{__package__}.whole_process", what, str(bundle), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return cast(dict[str, float], json.loads(done.stdout))


def export_missing(home: Path, work: Path, precisions: list[str], blocks: int | None) -> None:
    """Exports the bundles that `home` does not have."""
    missing = [precision for precision in precisions if not (home / precision).exists()]
    if missing:
        source = make(LLM_SHAPE, work / "checkpoint", layers=blocks, blocks=blocks)
        for precision in missing:
            export_random(export_plan(source, home / precision, precision=precision))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, help="vision blocks and decoder layers (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", default="fp16,int8,int4,hybrid")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="directory that keeps the bundles for the next run")
    options = parser.parse_args(arguments)
    precisions = options.precisions.split(",")
    found: dict[str, list[dict[str, float]]] = {precision: [] for precision in precisions}
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        home = options.keep or Path(directory)
        export_missing(home, Path(directory), precisions, options.blocks)
        for _ in range(options.repeat):
            for precision in precisions:
                parts = [measure(what, home / precision, options.threads) for what in ("reading", "running")]
                found[precision].append(parts[0] | parts[1])
    medians = {
        precision: {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
        for precision, runs in found.items()
    }
    return {"cpu": cpu(), "blocks": options.blocks or "all", "threads": options.threads, **medians}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
