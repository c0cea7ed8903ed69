"""The vectors are what this runtime computes, and agree with implementations that it does not share.

If a difference is meant, `make conformance` writes them anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_utils import SizeDict
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from .answers import logits_of
from .geometries import FAMILIES
from .make import DOCUMENTS, HERE
from .pictures import pixels, sha256
from .prompts import REFERENCE

LIMIT = 1 << 20
"""Bytes of all files together."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(REFERENCE)


def read(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, inputs and outputs of each case of a file."""
    for case in read(name)["cases"]:
        yield case["name"], case["in"], case["out"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_runtime_computes_the_vectors(name: str) -> None:
    assert (HERE / f"{name}.json").read_text("utf-8") == DOCUMENTS[name]().text()


def test_the_files_are_those_that_are_made_and_small() -> None:
    files = list(HERE.glob("*.json"))
    assert {path.stem for path in files} == DOCUMENTS.keys()
    assert sum(path.stat().st_size for path in files) < LIMIT


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_say_what_their_cases_have(name: str) -> None:
    document = read(name)
    names = [case["name"] for case in document["cases"]]
    assert len(set(names)) == len(names)
    for case in document["cases"]:
        assert case["in"].keys() <= document["inputs"].keys() and case["out"].keys() <= document["outputs"].keys()
        assert case["out"]


def test_smart_resize() -> None:
    for name, given, out in cases("smart_resize"):
        assert smart_resize(**given) == (out["height"], out["width"]), name


def test_sizes_are_those_of_the_processor() -> None:
    images = read("resize")["shared"]["images"]
    for name, given, out in cases("resize"):
        image, (width, height) = images[given["image"]], given["size"]
        if image["square"]:
            assert out["size"] == [448, 448] and out["image_tokens"] == 256
            continue
        most, side = given.get("max_pixels", image["max_pixels"]), image["patch_size"]
        least = min(image["min_pixels"], most)
        tall, wide = smart_resize(height, width, side * image["spatial_merge_size"], least, most)
        assert out["size"] == [wide, tall], name
        assert out["grid"] == [-(-given["frames"] // image["temporal_patch_size"]), tall // side, wide // side]
        assert out["image_tokens"] == math.prod(out["grid"]) // image["spatial_merge_size"] ** 2


BITS = 22
"""Of the fraction of an integer weight."""


def bicubic(x: float) -> float:
    """The kernel with a = −1/2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return -0.5 * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0


def integer_weights(before: int, after: int) -> Iterator[tuple[int, np.ndarray]]:
    """For each output, the first input and the weights of the inputs from there on (docs/graph-contract.md)."""
    scale = before / after
    stretch = max(scale, 1.0)
    for output in range(after):
        center = (output + 0.5) * scale
        first = max(int(center - 2 * stretch + 0.5), 0)
        last = min(int(center + 2 * stretch + 0.5), before)
        weights = np.array([bicubic((x - center + 0.5) * (1 / stretch)) for x in range(first, last)])
        scaled = weights / sum(weights.tolist()) * 2**BITS
        yield first, np.trunc(scaled + np.where(weights < 0, -0.5, 0.5)).astype(np.int64)


def resampled_columns(image: np.ndarray, width: int) -> np.ndarray:
    """An image [rows, columns, 3] with another number of columns."""
    before = image.shape[1]
    if width == before:
        return image
    out = np.empty((len(image), width, 3), np.uint8)
    for column, (first, weights) in enumerate(integer_weights(before, width)):
        inputs = image[:, first : first + len(weights)]
        total = (inputs * weights[:, None]).sum(axis=1) + 2 ** (BITS - 1)
        out[:, column] = np.clip(total >> BITS, 0, 255)
    return out


def resampled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Columns first, unless rows are removed, and more than twice as many as columns."""
    if image.shape[0] - height > max(0, 2 * (image.shape[1] - width)):
        return resampled(image.transpose(1, 0, 2), height, width).transpose(1, 0, 2)
    columns = resampled_columns(image, width)
    return resampled_columns(columns.transpose(1, 0, 2), height).transpose(1, 0, 2)


def test_bicubic_pixels_are_those_of_the_written_rule() -> None:
    for name, given, out in cases("bicubic"):
        resized = resampled(pixels(**given["picture"]), *given["size"])
        assert sha256(resized) == out["sha256"], name
        assert "pixels" not in out or resized.tolist() == out["pixels"], name


def test_patches_are_those_of_the_processor() -> None:
    for name, given, out in cases("patches"):
        image, (_, rows, columns) = given["image"], given["grid"]
        if len(given["pictures"]) > 1 or image["temporal_patch_size"] == 1:
            continue  # the processor of images
        area = rows * columns * image["patch_size"] ** 2
        processor = Qwen2VLImageProcessorPil(
            patch_size=image["patch_size"],
            merge_size=image["spatial_merge_size"],
            size=SizeDict(shortest_edge=area, longest_edge=area),
            image_mean=image["image_mean"],
            image_std=image["image_std"],
            do_resize=False,
        )
        picture = Image.fromarray(pixels(**given["pictures"][0]))
        side = columns * image["patch_size"], rows * image["patch_size"]
        found = processor(images=[picture.resize(side, Image.Resampling.BICUBIC)], return_tensors="np")
        assert sha256(found["pixel_values"].astype(np.float32)) == out["sha256"], name


def test_positions_of_patches_and_tables() -> None:
    for name, given, out in cases("patch_positions"):
        grid = torch.tensor([[1, *given["grid"][1:]]])
        assert get_vision_position_ids(grid, given["merge"]).tolist() == out["patch_positions"], name
    for name, given, out in cases("interpolation"):
        indices, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, *given["grid"][1:]]]), given["side"], align_corners=True, spatial_merge_size=2
        )
        assert indices.T.tolist() == out["indices"], name
        assert np.array_equal(weights.T.numpy(), np.array(out["weights"], np.float32)), name


def test_windows() -> None:
    for name, given, out in cases("windows"):
        side, patch = given["window"], 14
        index, borders = get_vision_window_index(
            torch.tensor([[1, *given["grid"][1:]]]), given["merge"], side * given["merge"] * patch, patch
        )
        theirs = (index[:, None] * given["merge"] ** 2 + torch.arange(given["merge"] ** 2)).flatten().tolist()
        assert np.diff(borders.numpy()).tolist() == out["window_lengths"], name
        rows = np.reshape(out["window_gather"], (len(out["window_lengths"]), -1))
        real = [row[:length] for row, length in zip(rows, out["window_lengths"], strict=True)]
        assert np.concatenate(real).tolist() == theirs, name
        assert np.array(out["window_gather"])[out["window_scatter"]].tolist() == sorted(theirs), name


MODELS: dict[str, tuple[ModuleType, str]] = {
    "qwen2_vl": (modeling_qwen2_vl, "Qwen2VL"),
    "qwen2_5_vl": (modeling_qwen2_5_vl, "Qwen2_5_VL"),
    "qwen3_vl": (modeling_qwen3_vl, "Qwen3VL"),
    "qwen3_vl_moe": (modeling_qwen3_vl_moe, "Qwen3VLMoe"),
    "qwen3_5": (modeling_qwen3_5, "Qwen3_5"),
    "qwen3_5_moe": (modeling_qwen3_5_moe, "Qwen3_5Moe"),
}


def shell(family: str) -> Any:
    """The model of a family without weights, for its positions."""
    module, name = MODELS[family]
    model_type = getattr(module, f"{name}Model")
    found = model_type.__new__(model_type)
    torch.nn.Module.__init__(found)
    found.config = getattr(module, f"{name}Config")()
    if family == "qwen2_5_vl":
        found.config.vision_config.tokens_per_second = 2
    return found


@pytest.mark.parametrize("family", MODELS)
def test_mrope_positions_are_those_of_the_model(family: str) -> None:
    model, found = shell(family), 0
    for name, given, out in cases("mrope"):
        if given["family"] != family or any("kept" in part for part in given["parts"]):
            continue
        types, images, videos, seconds = list[int](), list[list[int]](), list[list[int]](), list[float]()
        for part in given["parts"]:
            if "text" in part:
                types += [0] * part["text"]
                continue
            kind = "image" if "image" in part else "video"
            t, h, w = part[kind]
            timed = given["video"]["timestamps"] and " a video" in name
            types += [1 if kind == "image" and not timed else 2] * (t * h * w // 4)
            (images if kind == "image" and not timed else videos).append([t, h, w])
            seconds.append(part.get("seconds", 1.0))
        grids = [torch.tensor(each) if each else None for each in (images, _joined(videos, given))]
        more = [torch.tensor(seconds)] if family == "qwen2_5_vl" and videos else []
        ids = torch.zeros((1, len(types)), dtype=torch.long)
        theirs, delta = model.get_rope_index(ids, torch.tensor([types]), *grids, *more)
        assert theirs[:, 0].tolist() == out["positions"], name
        assert int(delta) + len(types) == out["next_position"], name
        found += 1
    assert found >= 4


def _joined(videos: list[list[int]], given: dict[str, Any]) -> list[list[int]]:
    """The grids of videos; temporal patches with their own vision blocks are one video."""
    if not given["video"]["timestamps"] or not videos:
        return videos
    return [[len(videos), *videos[0][1:]]]


def test_every_family_has_positions() -> None:
    assert {given["family"] for _, given, _ in cases("mrope")} == set(FAMILIES) == {*MODELS, "qwen"}
    for name, given, out in cases("mrope"):
        if given["family"] == "qwen":
            count = sum(sum(part.values()) for part in given["parts"])
            assert out["positions"] == [list(range(count))] * 3, name


def test_what_is_left_out_moves_nothing() -> None:
    """Kept cells and the text after them have the positions that they have in the whole image."""
    for name, given, out in cases("mrope"):
        if (part := next((part for part in given["parts"] if "kept" in part), None)) is None:
            continue
        first, kept, (_, h, w) = given["parts"][0]["text"], part["kept"], part["image"]
        places = [(0, *divmod(cell, w // 2)) for cell in kept]
        following = first + max(h, w) // 2
        found = np.transpose(out["positions"])[first : first + len(kept) + 1].tolist()
        assert found == [*([first + axis for axis in place] for place in places), [following] * 3], name


def test_ntk_alpha_is_that_of_qwen_vl() -> None:
    for name, given, out in cases("ntk_alpha"):
        alpha = 1.0
        if given["trained"]:  # modeling_qwen.get_ntk_alpha
            alpha = max(2 ** math.ceil(math.log(given["length"] / given["trained"], 2) + 1) - 1, 1)
        assert out["ntk_alpha"] == alpha, name


def test_templates_render_as_in_transformers(tokenizer: PreTrainedTokenizerBase) -> None:
    templates = read("templates")["shared"]["templates"]
    for name, given, out in cases("templates"):
        if given.get("tools") and "tools" not in templates[given["template"]]:
            continue  # transformers leaves them out
        theirs = tokenizer.apply_chat_template(
            given["messages"],
            tools=given.get("tools"),
            chat_template=templates[given["template"]],
            tokenize=False,
            add_generation_prompt=True,
            **given.get("template_args", {}),
        )
        assert theirs == out["text"], name


def test_tokens_are_those_of_transformers(tokenizer: PreTrainedTokenizerBase) -> None:
    for name, given, out in cases("tokens"):
        if "text" in given:
            assert tokenizer(given["text"], add_special_tokens=False)["input_ids"] == out["ids"], name
        elif "box" not in "".join(out["pieces"]) and out["pieces"]:
            assert tokenizer.decode(given["ids"], skip_special_tokens=True) == "".join(out["pieces"]), name


def test_log_probabilities_are_those_of_torch() -> None:
    for name, given, out in cases("logprobs"):
        theirs = torch.log_softmax(torch.from_numpy(logits_of(given).astype(np.float64)), 0)
        assert float(theirs[given["token"]]) == pytest.approx(out["logprob"], rel=1e-12, abs=1e-12), name
        values, indices = torch.sort(theirs, descending=True, stable=True)
        best = list(zip(indices.tolist(), values.tolist(), strict=True))[: given["count"]]
        assert [token for token, _ in best] == [token for token, _ in out["top"]], name
        assert [value for _, value in best] == pytest.approx([value for _, value in out["top"]], rel=1e-12, abs=1e-12)


def test_the_readme_lists_every_file() -> None:
    readme = Path(HERE / "README.md").read_text("utf-8")
    assert [name for name in DOCUMENTS if f"`{name}.json`" not in readme] == []
