"""What `run_whole` measures, in a process that imports the runtime only.

python -m tests.bench.whole_process reading|running BUNDLE THREADS
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from qvl_runtime import load
from qvl_runtime.answers.generate import Decoder, GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.positions import Grid
from qvl_runtime.prompts.prompt import Prompt
from qvl_runtime.templates.bundle_texts import open_texts

PAGE = Grid(1, 84, 60)  # an A4 page at 100 dpi: 5,040 patches, 1,260 tokens
TEXT, ANSWER = 40, 64
BUFFER = 1 << 20


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def peak() -> float:
    """Megabytes that this process held at most."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def reading(bundle: Path, _: int) -> dict[str, float]:
    """Seconds of reading the files of a bundle in two ways, and of opening its texts."""
    manifest, kept = read_manifest(bundle), list[bytes]()
    files = [bundle / name for name in manifest.files]

    def scan() -> None:
        buffer = bytearray(BUFFER)
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass

    scan()  # from the disk, if it has to be
    found = {"scan": seconds(scan), "read": seconds(lambda: kept.extend(file.read_bytes() for file in files))}
    open_texts(bundle, manifest.special_tokens)  # vetted once for all later processes
    return found | {"texts": seconds(lambda: open_texts(bundle, manifest.special_tokens))}


def running(bundle: Path, threads: int) -> dict[str, float]:
    """Seconds of loading, of a page and its prompt, tokens per second of an answer, and megabytes at the peak."""
    models = list[Any]()
    found = {"load": seconds(lambda: models.append(load(bundle, threads))), "load MB": peak()}
    (model,) = models
    manifest, tokens = model.manifest, PAGE.h * PAGE.w // 4
    shape = (1, PAGE.h * PAGE.w, manifest.image.patch_dim)
    pixels = np.random.default_rng(0).standard_normal(shape, np.float32)
    found |= {"page": seconds(lambda: model.engine.encode(pixels, PAGE)), "page MB": peak()}
    ids = np.r_[np.arange(1000, 1000 + TEXT), np.full(tokens, manifest.tokens.image)]
    prompt = Prompt(ids, np.tile(np.arange(len(ids)), (3, 1)), ())
    decoder = Decoder(model.engine, manifest.llm, cast(Any, None))
    last = np.array([len(ids) - 1])
    found["prompt"] = seconds(lambda: decoder.prefill(prompt, last, GenerationStats()))
    answer = seconds(lambda: [decoder.step(1000 + index, len(ids) + index) for index in range(ANSWER)])
    return found | {"tokens/s": ANSWER / answer, "peak MB": peak()}


if __name__ == "__main__":
    print(json.dumps({"reading": reading, "running": running}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
