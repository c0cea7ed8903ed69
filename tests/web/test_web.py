"""The runtime for the web and Node.js: its own tests, on the vectors and on bundles that answer as in Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_export import export
from qvl_export.evaluate.analysis.accumulators import compare_pairs
from qvl_export.evaluate.analysis.results import Comparison
from qvl_export.evaluate.analysis.statistics import PairedScores
from qvl_export.evaluate.metrics.text_scores import error_rate
from qvl_export.targets import web
from qvl_runtime.grounding import Box
from qvl_runtime.model import Model, load
from qvl_runtime.pdf import pdf_pages
from tests.conftest import REFERENCE, Bundles
from tests.heldout import items
from tests.plans import export_plan
from tests.web.conftest import PACKAGE, ROOT

LONGEST = 60


def test_the_manifest_has_the_same_schema() -> None:
    """A copy, so that the package is whole: `cp` writes it anew."""
    ours = ROOT / "runtimes" / "python" / "qvl_runtime" / "bundle.schema.json"
    assert (PACKAGE / "src" / "bundle.schema.json").read_bytes() == ours.read_bytes()


def test_the_lock_file_names_no_registry() -> None:
    """Neither the public one nor a mirror: `npm ci` takes the registry that is set."""
    packages = json.loads((PACKAGE / "package-lock.json").read_text("utf-8"))["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name)


Question = tuple[str, list[dict[str, Any]], dict[str, Any]]
"""Name, messages with paths of images, and options."""


def asked(*content: dict[str, Any], **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return [{"role": "user", "content": list(content)}], {"max_new_tokens": LONGEST, **options}


def image(path: Path, **options: Any) -> dict[str, Any]:
    return {"type": "image", "image": str(path), **options}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def heldout(folder: Path, task: str, first: int, last: int) -> Iterator[tuple[str, Path, str]]:
    """Name, page and prompt of questions; the pages have palettes, and are copied as RGB."""
    for item in list(items(task))[first:last]:
        page = folder / item.image.name
        Image.open(item.image).convert("RGB").save(page)
        yield f"{task} of {page.name}", page, item.prompt


def pages(folder: Path) -> Iterator[Question]:
    """Whole pages, read and asked about."""
    for name, page, prompt in (*heldout(folder, "ocr", 0, 3), *heldout(folder, "grounding", 0, 2)):
        yield name, *asked(image(page), text(prompt))


def others(folder: Path, clip: list[Path]) -> Iterator[Question]:
    """Other prompts and options."""
    (_, first, prompt), (_, second, _) = heldout(folder, "ocr", 3, 5)
    question = text(prompt)
    yield "two images", *asked(image(first), image(second), question)
    yield "a smaller image", *asked(image(first, max_pixels=60_000), question)
    yield "an image without blank paper", *asked(image(first, prune="exact"), question)
    yield "a scan without blank paper", *asked(image(second, prune="scan"), question)
    yield "a video", *asked({"type": "video", "video": [str(path) for path in clip], "fps": 1.5}, question)
    yield "a page of a PDF", *asked({"type": "image", "pdf": str(pdf_of(first, second)), "pages": "2"}, question)
    yield "text", *asked(text("What is the date?"))
    yield "sampled", *asked(image(first), question, temperature=0.8, top_p=0.9, top_k=20, seed=7)
    penalties = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "presence_penalty": 0.5}
    yield "with penalties", *asked(image(first), question, **penalties)
    recorded = {"logprobs": True, "top_logprobs": 5, **penalties}
    yield "log probabilities", *asked(image(first), question, **recorded)


PDF_DPI = 144
"""Two pixels per point: pages are drawn with the pixels that they are made of, by pdfium and by pdf.js."""


def pdf_of(*images: Path) -> Path:
    """A PDF with an image on each page, which palettes keep without loss."""
    path, pages = images[0].with_suffix(".pdf"), [Image.open(image).quantize() for image in images]
    pages[0].save(path, save_all=True, append_images=pages[1:], resolution=PDF_DPI)
    return path


def with_pages(messages: list[Any]) -> list[Any]:
    """Messages with the pages of PDFs in place of their names."""
    return [
        {**message, "content": [part for each in message["content"] for part in drawn(each)]} for message in messages
    ]


def drawn(part: dict[str, Any]) -> list[dict[str, Any]]:
    if "pdf" not in part:
        return [part]
    return [{"type": "image", "image": page} for page in pdf_pages(part["pdf"], part["pages"], PDF_DPI)]


FORMS: dict[str, dict[str, Any]] = {
    "portable": {"target": "portable"},
    "concat": {"target": "portable", "opset": 21},
    "web": {"target": "web"},
}
"""Further targets and forms of the reference checkpoint; the last one also runs in WebAssembly."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five frames of noise that moves."""
    folder, noise = tmp_path_factory.mktemp("clip"), np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    paths = [folder / f"{index}.png" for index in range(5)]
    for index, path in enumerate(paths):
        Image.fromarray(np.roll(noise, 9 * index, axis=1)).save(path)
    return paths


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory,
    clip: list[Path],
    reader_bundle: Callable[[str, str], Path],
    bundle: Bundles,
) -> Path:
    """A file of bundles, questions, and the answers that they have in Python."""
    folder, found = tmp_path_factory.mktemp("web"), list[dict[str, Any]]()
    for family in ("qwen2_5_vl", "qwen3_vl"):
        found += answered(reader_bundle(family, "fp32"), [*pages(folder), *others(folder, clip)])
    of_pdf = next(answer for answer in found if answer["name"] == "a page of a PDF")
    found += [{**answer, "backend": "wasm"} for answer in (*found[:3], of_pdf)]
    for name, options in FORMS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(web, "LARGEST_FILE", 2_000_000)  # several files of weights
            export(export_plan(REFERENCE, folder / name, precision="fp32", **options))
        found += answered(folder / name, [*pages(folder)])
    found.append({**found[-1], "backend": "wasm"})
    for family in ("qwen", "qwen2_vl", "qwen3_vl_moe"):
        found += answered(bundle(family, "small", "fp32"), list(pages(folder))[:1])
    looping = asked(text("What is the date?"), max_new_tokens=600, stop_loops=True)
    found += answered(bundle("qwen2_5_vl", "small", "fp32"), [("a loop", *looping)])
    assert found[-1]["finish_reason"] == "loop"
    file = folder / "answers.json"
    file.write_text(json.dumps(found))
    return file


def answered(bundle: Path, questions: list[Question]) -> list[dict[str, Any]]:
    """What a bundle answers in Python."""
    with load(bundle, threads=1) as model:
        return [answer(model, str(bundle), *question) for question in questions]


def answer(model: Model, bundle: str, name: str, messages: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    stream = model.stream(with_pages(messages), **options)
    written, prompt = "".join(stream), stream.prompt
    regions = model.regions(written, prompt.placed[0]) if len(prompt.placed) == 1 else []
    numbers = [
        [found.x1, found.y1, found.x2, found.y2] if isinstance(found, Box) else [found.x, found.y] for found in regions
    ]
    return {
        "name": name,
        "bundle": bundle,
        "backend": "node",
        "messages": messages,
        "options": options,
        "ids": prompt.ids.tolist(),
        "tokens": stream.run.tokens,
        "text": written,
        "finish_reason": stream.run.finish_reason,
        "loop": stream.run.loop,
        "logprobs": [astuple(entry) for entry in stream.run.logprobs],
        "regions": [{"label": found.label, "numbers": values} for found, values in zip(regions, numbers, strict=True)],
    }


def test_the_vectors(npm: str, run: Callable[..., str]) -> None:
    assert "# skipped 0\n" in run(npm, "run", "vectors")


@pytest.mark.slow
def test_the_packages_tests(npm: str, answers: Path, run: Callable[..., str]) -> None:
    output = run(npm, "test", env={"QVL_WEB_ANSWERS": str(answers)})
    if shutil.which("chromium") is None:
        assert "# skipped 1\n" in output
        pytest.skip(
            "chromium is not installed: the runtime for the web passes in Node.js, and was tested in no browser"
        )
    assert "# skipped 0\n" in output


SMALLER: dict[str, dict[str, Any]] = {
    "fp16": {},
    "int8": {"samples": 8},
    "int4": {"samples": 8},
    "hybrid": {"samples": 8},
    "web fp16": {"target": "web"},
    "web int4": {"target": "web", "samples": 8},
    "portable int4": {"samples": 8, "target": "portable"},
}
"""Options of bundles by names that end with their precision."""
FORCED_PAGES, READ_PAGES = 20, 30
LONGEST_PAGE = 200
"""Tokens of an answer, of which the pages' true ones have fewer."""
BACKENDS = ("node", "wasm")
"""Of the runtime for the web: in ONNX Runtime of another release, in Node.js and in WebAssembly."""


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The reference checkpoint in every precision below fp32."""
    bundles = []
    for name, options in SMALLER.items():
        bundles.append(tmp_path_factory.mktemp("smaller") / name)
        export(export_plan(REFERENCE, bundles[-1], precision=name.split()[-1], **options))
    return bundles


@pytest.mark.slow
def test_likeliest_tokens_of_smaller_bundles(
    smaller: list[Path], npm: str, run: Callable[..., str], tmp_path: Path
) -> None:
    forced = []
    for bundle in smaller:
        pages = list(likeliest_tokens(bundle, tmp_path))
        forced += [{"bundle": str(bundle), "backend": backend, "pages": pages} for backend in BACKENDS]
    file = tmp_path / "forced.json"
    file.write_text(json.dumps(forced))
    run(npm, "exec", "tsc")
    output = run("node", "--test", "build/test/model.test.js", env={"QVL_WEB_FORCED": str(file)})
    print(*(line for line in output.splitlines() if " of " in line), sep="\n")


@pytest.mark.slow
def test_smaller_bundles_read_as_in_python(
    smaller: list[Path], npm: str, run: Callable[..., str], tmp_path: Path
) -> None:
    """The report's paired interval of the character error rate has zero in it."""
    questions = [
        (name, *asked(image(page), text(prompt), max_new_tokens=LONGEST_PAGE))
        for name, page, prompt in heldout(tmp_path, "ocr", 0, READ_PAGES)
    ]
    asks = [{"messages": messages, "options": options} for _, messages, options in questions]
    readings = [
        {"bundle": str(path), "backend": backend, "questions": asks} for path in smaller for backend in BACKENDS
    ]
    file = tmp_path / "readings.json"
    file.write_text(json.dumps(readings))
    run(npm, "exec", "tsc")
    found = json.loads(run("node", "build/test/read.js", str(file)))
    python = {str(path): [answer["text"] for answer in answered(path, questions)] for path in smaller}
    for reading, said in zip(readings, found, strict=True):
        rate = error_rates(python[reading["bundle"]], said)
        print(f"{Path(reading['bundle']).name}, {reading['backend']}: {rate}")
        assert not rate.too_few
        assert rate.low <= 0 <= rate.high, rate


def error_rates(reference: list[str], other: list[str]) -> Comparison:
    """The character error rates of two readings, compared as in a report."""
    truths = [item.answer for item in items("ocr")]
    scores = np.array(
        [[error_rate(*pair) for pair in zip(said, [[t] for t in truths], strict=False)] for said in (reference, other)]
    )
    return compare_pairs(PairedScores(scores[..., 0], scores[..., 1]), "cer", "ocr")


def likeliest_tokens(bundle: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Pages, their true answers, and the likeliest token at each place of these."""
    truths = [item.answer for item in items("ocr")]
    with load(bundle, threads=1) as model:
        for (_, page, prompt), truth in zip(heldout(folder, "ocr", 0, FORCED_PAGES), truths, strict=False):
            messages, _ = asked(image(page), text(prompt))
            tokens = model.logits(messages, truth).argmax(axis=-1).tolist()
            yield {"messages": messages, "answer": truth, "likeliest": tokens}


COMPILED = [
    *("--noEmit", "--ignoreConfig", "--skipLibCheck", "false", "--strict", "--lib", "es2023,dom", "--types", ""),
    *("--module", "nodenext"),  # as in programs for Node.js, whose declarations need whole file names
]


def test_the_package_is_small_and_its_declarations_are_whole(npm: str, run: Callable[..., str]) -> None:
    """Without other packages that have types."""
    run(npm, "run", "build")
    run(npm, "exec", "--", "tsc", *COMPILED, "dist/index.d.ts")
    files = json.loads(run(npm, "pack", "--dry-run", "--json"))
    (packed,) = files if isinstance(files, list) else files.values()
    assert packed["unpackedSize"] < 300_000
