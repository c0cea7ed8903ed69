"""A checkpoint of `--save-gptq` in GPTQModel itself, against the float model with the weights that our reader finds.

    python3 -m venv VENV && VENV/bin/pip install torch==2.13.0
    VENV/bin/pip install gptqmodel==7.6.0 ./runtimes/python '.[cpu,quant]'
    GPTQMODEL_CPU_WORKERS=2 VENV/bin/python -m tests.quant.load_in_gptqmodel CHECKPOINT

It computes in float16 or bfloat16 only: its weights must be ours rounded to float16, and its logits those of the float
model within what float16 costs. Not part of `make test`: it installs gigabytes and other releases than ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.models.definitions.base_qwen2_vl import BaseQwen2VLGPTQ
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized.detect import quantized_linears
from qvl_export.checkpoint.quantized.packed_words import FORMS
from qvl_export.checkpoint.tensor_names import nested_name

BACKENDS = BACKEND.GPTQ_TORCH, BACKEND.GPTQ_TORCH_ATEN, BACKEND.GPTQ_TORCH_FUSED
LEAST_COSINE = 0.999
IDS = torch.arange(5, 205)[None]


def float_model(directory: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """The model of transformers with `weights` in its quantized linears and the checkpoint's other tensors."""
    config = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    state = {f"{name}.weight": weight for name, weight in weights.items()}
    for name, tensor in Checkpoint(directory).tensors.items():
        if name.rpartition(".")[2] not in FORMS:
            whole = np.concatenate([chunk.astype(np.float32) for chunk in tensor.chunks()])
            state[nested_name(name)] = torch.from_numpy(whole.reshape(tensor.shape))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.to(dtype)


@torch.no_grad()
def logits(model: torch.nn.Module) -> np.ndarray:
    return np.asarray(model(input_ids=IDS).logits[0].float().numpy())


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def main(directory: Path) -> None:
    BaseQwen2VLGPTQ.require_load_processor = False  # transformers' video processor wants torchvision
    linears = quantized_linears(Checkpoint(directory))
    ours = {nested_name(name): torch.from_numpy(linear.read().dequantize()) for name, linear in linears.items()}
    negative = np.mean([(linear.read().scales < 0).mean() for linear in linears.values()])
    print(f"{len(ours)} linears, {100 * negative:.0f} % of scales negative")
    expected = logits(float_model(directory, ours, torch.float32))
    print(f"float16 alone: cosine {cosine(logits(float_model(directory, ours, torch.float16)), expected):.6f}")
    for backend in BACKENDS:
        theirs = GPTQModel.load(str(directory), device="cpu", backend=backend, dtype=torch.float16).model
        if backend == BACKEND.GPTQ_TORCH:
            modules = dict(theirs.named_modules())
            for name, weight in ours.items():
                assert torch.equal(modules[name].dequantize_weight().T.half(), weight.half()), name
            print("weights equal ours, rounded to float16")
        found = cosine(logits(theirs), expected)
        print(f"{backend.value}: cosine {found:.6f}")
        assert found >= LEAST_COSINE, backend


if __name__ == "__main__":
    main(Path(sys.argv[1]))
