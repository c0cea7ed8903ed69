"""A `cpu` bundle in the layout that transformers.js reads: the same operators and weights, in three graphs.

`vision_encoder` has the positions of one grid in it, `embed_tokens` looks up the table, and `decoder_model_merged` has
everything after the splice of features, with lengths from the attention mask and logits of the last token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, MutableSequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.positions import Grid, patch_positions

EMBEDDED = "ScatterND"
"""The operator whose output is the embeddings with image features in them; its first input are those of the tokens."""
STATE = ("position_ids", "logits_positions", "seqlens_k", "total_sequence_length")
"""Inputs beside the cache; all but the first are computed from other ones."""
INT64, FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


def write(bundle: Path, checkpoint: Path, grid: Grid, image: ImageGeometry, out: Path) -> Path:
    """The directory of a model, for images of one grid."""
    (out / "onnx").mkdir(parents=True)
    vision, llm = (onnx.load(bundle / f"{name}.onnx") for name in ("vision", "llm"))
    _save(_vision(vision, grid, image), out, "vision_encoder")
    splice = next(node for node in llm.graph.node if node.op_type == EMBEDDED)
    embeddings, spliced = splice.input[0], splice.output[0]
    _save(_embedding(llm, embeddings), out, "embed_tokens")
    _save(_decoder(llm, spliced), out, "decoder_model_merged")
    _texts(bundle, checkpoint, out)
    return out


def _vision(model: onnx.ModelProto, grid: Grid, image: ImageGeometry) -> onnx.ModelProto:
    """Patches [patches, dim] and the grid, which is not used: a graph that computes positions would take as long."""
    graph = model.graph
    _remove(graph.input, {"pixel_values", "patch_positions"})
    graph.input.append(helper.make_tensor_value_info("pixel_values", FLOAT, ["patches", image.patch_dim]))
    graph.input.append(helper.make_tensor_value_info("grid_thw", INT64, ["images", 3]))
    positions = patch_positions(grid, image.spatial_merge_size)[None]
    graph.initializer.append(numpy_helper.from_array(positions.astype(np.int64), "patch_positions"))
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    _rename(graph, "pixel_values", "frames_of_patches")
    graph.node.insert(0, helper.make_node("Unsqueeze", ["pixel_values", "first"], ["frames_of_patches"]))
    return model


def _embedding(model: onnx.ModelProto, embeddings: str) -> onnx.ModelProto:
    inputs = {value.name: value for value in model.graph.input if value.name == "input_ids"}
    found = _part(model, inputs, [_embeddings(model, embeddings)])
    _rename(found.graph, embeddings, "inputs_embeds")
    found.graph.output[0].name = "inputs_embeds"
    return found


def _decoder(model: onnx.ModelProto, spliced: str) -> onnx.ModelProto:
    kept = {value.name: value for value in model.graph.input if value.name.startswith(("past_", *STATE))}
    found = _part(model, {spliced: _embeddings(model, spliced), **kept}, list(model.graph.output))
    graph = found.graph
    _rename(graph, spliced, "inputs_embeds")
    graph.input[0].name = "inputs_embeds"
    _remove(graph.input, set(STATE[1:]))
    graph.input.append(helper.make_tensor_value_info("attention_mask", INT64, [1, "total"]))
    graph.initializer.extend(numpy_helper.from_array(np.array([n], np.int64), f"number_{n}") for n in (0, 1))
    nodes = (
        helper.make_node("Shape", ["attention_mask"], ["mask_length"], start=1, end=2),
        helper.make_node("Squeeze", ["mask_length", "number_0"], ["mask_size"]),
        helper.make_node("Cast", ["mask_size"], ["total_sequence_length"], to=onnx.TensorProto.INT32),
        helper.make_node("Sub", ["mask_length", "number_1"], ["before_last"]),
        helper.make_node("Cast", ["before_last"], ["seqlens_k"], to=onnx.TensorProto.INT32),
        helper.make_node("Shape", ["inputs_embeds"], ["new_tokens"], start=1, end=2),
        helper.make_node("Sub", ["new_tokens", "number_1"], ["logits_positions"]),
    )
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return found


def _embeddings(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    features = next(value for value in model.graph.input if value.name == "image_features")
    hidden = features.type.tensor_type.shape.dim[1].dim_value
    return helper.make_tensor_value_info(name, FLOAT, [1, "sequence", hidden])


def _part(
    model: onnx.ModelProto, inputs: Mapping[str, onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The nodes between some values and others."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    needed, waiting = set[str](), [value.name for value in outputs]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [] if name in inputs or name not in made_by else made_by[name].input
    nodes = [node for node in model.graph.node if needed & set(node.output) - set(inputs)]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes, model.graph.name, list(inputs.values()), outputs, weights)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _remove(values: MutableSequence[onnx.ValueInfoProto], names: set[str]) -> None:
    for value in [value for value in values if value.name in names]:
        values.remove(value)


def _save(model: onnx.ModelProto, out: Path, name: str) -> None:
    onnx.save(
        model,
        out / "onnx" / f"{name}.onnx",
        save_as_external_data=True,
        location=f"{name}.onnx_data",
        size_threshold=1024,
    )


def _texts(bundle: Path, checkpoint: Path, out: Path) -> None:
    shutil.copyfile(bundle / "tokenizer.json", out / "tokenizer.json")
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(checkpoint / name, out / name)
    images = json.loads((checkpoint / "preprocessor_config.json").read_text())
    images |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    (out / "preprocessor_config.json").write_text(json.dumps(images))
    template = (bundle / "chat_template.jinja").read_text("utf-8")
    texts = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": template}
    (out / "tokenizer_config.json").write_text(json.dumps(texts))
