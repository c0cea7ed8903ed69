"""A checkpoint with random bfloat16 weights in the shape of a published one, for measurements at full size.

python -m tests.bench.random_checkpoint qwen2.5-vl-3b OUT
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from qvl_export import families, targets
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.graph import build
from qvl_export.graph.layers import Weight
from tests.oracles.tiny import REFERENCE

CONFIGS = Path(__file__).parents[1] / "configs"
_NAMES = "im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start vision_end"
SPECIAL = [f"<|{name}|>" for name in ("endoftext", *_NAMES.split(), "vision_pad", "image_pad", "video_pad")]
IMAGE = SPECIAL.index("<|image_pad|>")
SHARD_BYTES = 4 << 30
EXPERTS = ".mlp.experts."
PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
QWEN3 = {"min_pixels": 65536, "max_pixels": 16777216, "patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def tokenizer(first_special: int) -> Tokenizer:
    """Bytes as tokens, fillers up to the published size, and the special tokens at their published ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    vocabulary |= {f"<filler {index}>": index for index in range(len(alphabet), first_special)}
    result = Tokenizer(models.BPE(vocabulary, []))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens(SPECIAL)
    return result


def weights(directory: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight the model of `config.json` has."""
    spec = families.read_spec(Checkpoint(directory))
    target = targets.lower("cpu", "fp16")
    for graph in (build.build_vision(spec, target), build.build_llm(spec, target)):
        for name, value in graph.model.graph.initializers.items():
            if isinstance(value, Weight):
                yield name, value.source_shape


def write_shard(path: Path, tensors: list[tuple[str, tuple[int, ...]]], block: bytes, one_expert: bool = False) -> None:
    """Random values, or with `one_expert` holes that take no disk and read as zeros for all experts but the first.

    Every tensor begins elsewhere in the block: ONNX Runtime keeps equal weights once.
    """
    header, start, regions = {}, 0, []
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, start + size]}
        regions.append((name, start, size // shape[0] if one_expert and EXPERTS in name else size))
        start += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, first, size in regions:
            file.seek(8 + len(raw) + first)
            place = zlib.crc32(name.encode()) * 2 % len(block)
            while size:
                written = file.write(memoryview(block)[place : place + size])
                size, place = size - written, 0
        file.truncate(8 + len(raw) + start)


def shards(tensors: list[tuple[str, tuple[int, ...]]]) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Tensors in order, a new shard after every SHARD_BYTES."""
    shard, size = [], 0
    for name, shape in tensors:
        shard.append((name, shape))
        size += 2 * int(np.prod(shape))
        if size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def make(name: str, out: Path, layers: int | None = None, blocks: int | None = None, one_expert: bool = False) -> Path:
    """Write the checkpoint; `layers` shortens the language model, `blocks` the vision tower.

    With `one_expert` the others are holes in the files: 30 B parameters take 6 GB of disk.
    """
    out.mkdir(parents=True)
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    text = config.get("text_config", config)
    text["num_hidden_layers"] = layers or text["num_hidden_layers"]
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][: text["num_hidden_layers"]]
    vision = config["vision_config"]
    vision["depth"] = blocks or vision["depth"]
    for kind in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if kind in vision:
            vision[kind] = [index for index in vision[kind] if index < vision["depth"]]
    (out / "config.json").write_text(json.dumps(config))
    images = PREPROCESSOR | (QWEN3 if config["model_type"].startswith("qwen3") else {})
    (out / "preprocessor_config.json").write_text(json.dumps(images))
    first = config["image_token_id"] - IMAGE
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": [first + 2, first]}))
    shutil.copyfile(REFERENCE / "chat_template.jinja", out / "chat_template.jinja")
    tokenizer(first).save(str(out / "tokenizer.json"))
    tied = [] if config["tie_word_embeddings"] else [("lm_head.weight", (2,))]
    write_shard(out / "model.safetensors", tied, b"\0" * 4096)  # what read_spec looks at: tied or not
    tensors = list(weights(out))
    (out / "model.safetensors").unlink()
    block = (np.random.default_rng(0).standard_normal(32 << 20, np.float32) * 0.02).astype(ml_dtypes.bfloat16).tobytes()
    parts = list(shards(tensors))
    weight_map = {}
    for index, part in enumerate(parts, 1):
        file = f"model-{index:05}-of-{len(parts):05}.safetensors"
        write_shard(out / file, part, block, one_expert)
        weight_map |= {tensor: file for tensor, _ in part}
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return out


if __name__ == "__main__":
    print(make(sys.argv[1], Path(sys.argv[2])))
