"""GPTQModel's own GPTQ on the layers of `layers.py`: writes the relative output errors that ours are tested against.

    python3 -m venv VENV && VENV/bin/pip install torch==2.13.0
    VENV/bin/pip install gptqmodel==7.6.0 ./runtimes/python '.[cpu,quant]'
    GPTQMODEL_CPU_WORKERS=2 VENV/bin/python -m tests.quant.against_gptqmodel

Symmetric int4, damping 0.01, every ordering it offers without and with its search for clipped ranges (`mse`). It keeps
scales in float32 here, while ours are float16 as stored. The layers of the reference checkpoint change when it is
trained again: then this must be run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.quant.layers import Layer, random_layers, reference_layers

RESULTS = Path(__file__).with_name("gptqmodel_errors.json")
BLOCKS = 32, 128
ORDERS: dict[str, dict[str, Any]] = {
    "columns in order": {"desc_act": False, "act_group_aware": False},
    "act-group-aware (its default)": {"desc_act": False, "act_group_aware": True},
    "act-order, static groups": {"desc_act": True, "static_groups": True, "act_group_aware": False},
}
SEARCHES = {"": 0.0, ", mse": 2.0}


def their_errors(layer: Layer, block: int) -> dict[str, float]:
    """The error of each of its ways, by name."""
    import torch
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    errors = {}
    for name, order in ORDERS.items():
        for search, mse in SEARCHES.items():
            rows, columns = layer.weight.shape
            linear = torch.nn.Linear(columns, rows, bias=False)
            linear.weight.data = torch.from_numpy(layer.weight.copy())
            config = QuantizeConfig(bits=4, group_size=block, sym=True, damp_percent=0.01, mse=mse, **order)
            quantizer = GPTQ(linear, config)
            quantizer.quantizer.configure(perchannel=True)
            inputs = torch.from_numpy(layer.inputs)[None]
            quantizer.add_batch(inputs, linear(inputs))
            errors[name + search] = round(layer.error(quantizer.quantize()[0].numpy().astype(np.float64)), 7)
    return errors


def main() -> None:
    found = {
        layer.name: {str(block): their_errors(layer, block) for block in BLOCKS}
        for layers in (random_layers(), reference_layers())
        for layer in layers
    }
    RESULTS.write_text(json.dumps({"gptqmodel": "7.6.0", "errors": found}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
