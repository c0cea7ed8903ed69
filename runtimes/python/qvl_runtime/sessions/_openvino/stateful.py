"""Makes the KV cache of a language model a state of the model, in the form that OpenVINO fuses with attention."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

BEAM = "beam_idx"
"""An input of the changed model, int32 [1]: which row of the batch goes on."""
MASK = 3
"""The input of attention that is its mask."""


def keep_cache(model: Any, pairs: dict[str, str]) -> None:
    """Makes pairs of past and present a state each, empty at first and selected by an input `beam_idx` [1].

    This is the form in which OpenVINO's plugins fuse attention with its cache.
    """
    from openvino import opset13 as ops
    from openvino.passes import MakeStateful, Manager

    beam = ops.parameter([1], dtype=np.int32, name=BEAM)
    beam.output(0).get_tensor().set_names({BEAM})
    _select_by(model, beam, pairs)
    model.add_parameters([beam])
    _drop_padding(model)
    model.validate_nodes_and_infer_types()
    manager = Manager()
    manager.register_pass(MakeStateful(pairs))
    manager.run_passes(model)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            heads, dim = (node.get_output_partial_shape(0)[axis].get_length() for axis in (1, 3))
            sizes = ops.concat([ops.shape_of(beam, "i64"), ops.constant(np.array([heads, 0, dim], np.int64))], 0)
            zero = ops.constant(np.array(0, node.get_output_element_type(0).to_dtype()))
            node.set_arguments([ops.broadcast(zero, sizes).output(0)])
    model.validate_nodes_and_infer_types()


def _select_by(model: Any, beam: Any, names: Collection[str]) -> None:
    """Gathers the inputs of these names by the beam index."""
    from openvino import opset13 as ops

    for parameter in model.get_parameters():
        if parameter.output(0).get_any_name() in names:
            readers = parameter.output(0).get_target_inputs()
            chosen = ops.gather(parameter, beam, ops.constant(0))
            for reader in readers:
                reader.replace_source_output(chosen.output(0))


def _drop_padding(model: Any) -> None:
    """Gives attention its mask without the padding to the number of keys, which it already has: OpenVINO reads that
    number from the keys, and then does not fuse attention."""
    for node in model.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and node.get_input_size() > MASK:
            padded = node.input_value(MASK).get_node()
            if padded.get_type_name() == "Pad":
                node.input(MASK).replace_source_output(padded.input_value(0))
