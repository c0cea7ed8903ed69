"""The checkpoint and the pages of the measurement: random weights of a published shape, with the files peers want.

`random_checkpoint` writes what this project reads; transformers and converters also ask for a tokenizer's
configuration, and find out which classes to use from the preprocessor's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

from PIL import Image

from calib_data.generator import degrade
from tests.bench.quantization import CALIBRATION
from tests.bench.random_checkpoint import SPECIAL, make

SHAPES = ("qwen2-vl-2b", "qwen2.5-vl-3b")
SIZE = (840, 1176)
"""Pixels of a page: 30 × 42 image tokens, 1,260, an A4 page at 100 dpi."""
SOURCE = "document"
WARMUP = (112, 112)
MERGE = ("\u0120", "t")
"""A space before a t."""
PAGE_NUMBER = 20
"""Of the pages of the manual: one of which the usual share is blank (61 %)."""
SLANT, SEED = 1.0, 1
PROCESSORS = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor"),
}


def checkpoint(shape: str, out: Path, layers: int | None) -> Path:
    """Writes it once: `layers` of the language model and as many blocks of the tower (None: all)."""
    if out.exists():
        return out
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    make(shape, partial, layers, layers)
    config = json.loads((partial / "config.json").read_text())
    processor, images = PROCESSORS[config["model_type"]]
    preprocessor = json.loads((partial / "preprocessor_config.json").read_text())
    names = {"processor_class": processor, "image_processor_type": images}
    (partial / "preprocessor_config.json").write_text(json.dumps(preprocessor | names))
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": processor,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": SPECIAL,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "chat_template": (partial / "chat_template.jinja").read_text(),
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    give_merge(partial / "tokenizer.json")
    give_metadata(partial / "model.safetensors.index.json")
    partial.rename(out)
    return out


def give_merge(path: Path) -> None:
    """Gives the tokenizer one merge, instead of the first filler: llama.cpp opens none without merges."""
    content = json.loads(path.read_text("utf-8"))
    first, second = MERGE
    vocabulary = content["model"]["vocab"]
    vocabulary[first + second] = vocabulary.pop(next(token for token in vocabulary if token.startswith("<filler")))
    content["model"]["merges"] = [[first, second]]
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")


def give_metadata(path: Path) -> None:
    """Gives the index of shards the field that older transformers ask for."""
    index = json.loads(path.read_text())
    size = sum(path.with_name(name).stat().st_size for name in set(index["weight_map"].values()))
    path.write_text(json.dumps({"metadata": {"total_size": size}, **index}))


def fitted(image: Image.Image, size: tuple[int, int] = SIZE) -> Image.Image:
    """The image on white paper of that size, cut or with wider margins, never scaled."""
    page = Image.new("RGB", size, "white")
    page.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return page


def damaged(image: Image.Image) -> Image.Image:
    """As a scanner gives it back: slanted, unevenly lit, noisy, and as JPEG."""
    random = Random(SEED)
    image = image.rotate(SLANT, Image.Resampling.BICUBIC, fillcolor="white")
    for damage in (degrade.light, degrade.noise, degrade.jpeg):
        image = damage(image, random)
    return image.convert("RGB")


def source() -> Path:
    """A page of the Guide for Debian Maintainers, digital, at 100 dpi."""
    labels = map(json.loads, (CALIBRATION / "labels.jsonl").read_text("utf-8").splitlines())
    return CALIBRATION / [label["image"] for label in labels if label["kind"] == SOURCE][PAGE_NUMBER]


def pages(out: Path) -> dict[str, Path]:
    """Writes the clean page, the same one scanned, and the small image of the warm-up."""
    out.mkdir(parents=True, exist_ok=True)
    with Image.open(source()) as file:
        clean = fitted(file.convert("RGB"))
    found = {"clean": clean, "scan": damaged(clean), "warmup": clean.crop((100, 100, 100 + WARMUP[0], 100 + WARMUP[1]))}
    for name, image in found.items():
        image.save(out / f"{name}.png")
    return {name: out / f"{name}.png" for name in found}
