"""What the Hessians of a layer are gathered from: which linears are quantized already, and what each token counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qvl_export.checkpoint import Checkpoint
from qvl_export.families import read_spec
from qvl_export.graph.build import llm_weights
from qvl_export.quant import calibrate
from qvl_export.quant.calibrate import Calibration, Decoder, Recipe
from qvl_export.quant.gptq import gptq
from qvl_export.quant.qtensor import Layout
from qvl_export.quant.samples import Sample
from qvl_export.quant.saved import SavedLinear
from qvl_export.targets import lower

ORDER = [*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down"))]
LAYOUT = Layout(4, 16)
Gather = Callable[[Recipe], dict[str, np.ndarray]]


@pytest.fixture
def gather(checkpoint: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gather:
    """The Hessians of the first layer by linear, in the order in which they are asked for."""
    source = Checkpoint(checkpoint("qwen2_vl", "small"))
    decoder = Decoder(read_spec(source).text, lower("cpu", "fp32", accuracy_level=0), source.tensors)
    rng, tokens = np.random.default_rng(0), 40
    hidden = rng.standard_normal((1, tokens, decoder.spec.hidden_size), np.float32)
    sample = Sample(hidden, np.tile(np.arange(tokens), (3, 1)), np.arange(tokens) < 15)
    shapes = {name: shape for name, shape in llm_weights(decoder.spec, decoder.target).items() if ".layers.0." in name}

    def run(recipe: Recipe) -> dict[str, np.ndarray]:
        seen: list[np.ndarray] = []
        monkeypatch.setattr(calibrate, "gptq", lambda w, h, layout: (seen.append(h), gptq(w, h, layout))[1])
        work = Calibration(tmp_path / repr(recipe), {}).work
        linears = {name: SavedLinear(name, work / f"{name}.npz", LAYOUT, *shapes[name]) for name in shapes}
        calibrate._quantize_layer(decoder, 0, linears, [hidden], [sample], work, recipe)
        return dict(zip(ORDER, seen, strict=True))

    return run


def test_one_after_another_sees_what_quantized_linears_give(gather: Gather) -> None:
    at_once, in_turn = gather(Recipe(sequential=False)), gather(Recipe(sequential=True))
    for name in ORDER:
        difference = np.abs(at_once[name] - in_turn[name]).max() / np.abs(at_once[name]).max()
        first = name.endswith(("q_proj", "k_proj", "v_proj"))
        assert difference < 1e-6 if first else 1e-4 < difference < 0.3, name


def test_vision_tokens_count_what_they_are_told_to(gather: Gather) -> None:
    none, one, four = (gather(Recipe(vision_weight=weight)) for weight in (0.0, 1.0, 4.0))
    for name in ORDER:
        vision = one[name] - none[name]
        assert np.abs(vision).max() > 0
        assert np.allclose(four[name], none[name] + 4 * vision, rtol=1e-4, atol=1e-4 * np.abs(four[name]).max()), name
