"""SmoothQuant: moves outlier channels of activations into the weights by scales folded into the preceding operation.

Source: Xiao et al., arXiv 2211.10438, eq. 4: s = max|X|^α / max|W|^(1−α); inputs are divided and weights multiplied by
s. The strength α is the value of STRENGTHS with the least error on calibration tokens. No scaling is tried too, so that
no linear gets worse.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...common.arrays import Floats
from ...graph.layer_graphs import Stage
from ...graph.scale_folds import Fold
from ..output_error import relative_noise
from ..schemes import Scheme
from ..statistics import Statistics
from .tower import Tower

STRENGTHS = (0.35, 0.5, 0.65, 0.8)
LEAST, MOST = 1e-4, 1e4


def smooth(
    tower: Tower, stage: Stage, statistics: dict[str, Statistics]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Smooths the inputs of W8A8 linears where a fold allows it; scales of a shared KV cache are reused.

    Returns the rewritten tensors by name, and the scales of cached keys and values by the linear that produces them.
    Updates `statistics` to the smoothed inputs.
    """
    tensors: dict[str, Floats] = {}
    scales: dict[str, Floats] = {}

    def tensor(name: str) -> Floats:
        return tensors[name] if name in tensors else tower.tensor(name)

    def weights_of(fold: Fold) -> dict[str, Floats]:
        return {name: tensor(f"{name}.weight") for name in fold.linears}

    for fold in stage.folds:
        if fold.source in tower.cache_scales:
            mine, scale = weights_of(fold), tower.cache_scales[fold.source]
        elif scheme := _integer_scheme(tower, fold):
            mine = weights_of(fold)
            scale = best_scale(fold, mine, statistics[fold.linears[0]], scheme)
        else:
            continue
        if fold.cached:
            scales[fold.source] = scale
        for name in fold.linears:
            tensors[f"{name}.weight"] = mine[name] * scale[fold.channels]
            statistics[name] = statistics[name].divided(scale[fold.channels])
        for name in (f"{fold.source}.weight", f"{fold.source}.bias"):
            if name in tower.tensors:
                tensors[name] = _divide_rows(tensor(name), scale)
    return tensors, scales


def _integer_scheme(tower: Tower, fold: Fold) -> Scheme | None:
    """The scheme of the fold's linears if all of them have integer activations, else None."""
    schemes = [tower.scheme(name) for name in fold.linears]
    return schemes[0] if all(scheme and scheme.format(1).integer for scheme in schemes) else None


def _divide_rows(tensor: Floats, scale: Floats) -> Floats:
    """Divides a norm's gains, a bias, or the rows of a weight by `scale`; entries beyond its length stay."""
    divided = tensor.copy()
    divided[: len(scale)] /= scale if tensor.ndim == 1 else scale[:, None]
    return divided


def best_scale(fold: Fold, weights: Mapping[str, Floats], statistics: Statistics, scheme: Scheme) -> Floats:
    """The divisor of each output of the fold's source, [outputs]; ones if no scaling reduces the error."""
    mine = [weights[name] for name in fold.linears]
    candidates = [np.ones(int(fold.channels.max()) + 1, np.float32)]
    candidates += [_scale(fold, mine, statistics.largest, strength) for strength in STRENGTHS]
    losses = [_loss(mine, statistics, scale[fold.channels], scheme) for scale in candidates]
    return candidates[int(np.argmin(losses))]


def _scale(fold: Fold, weights: list[Floats], largest: Floats, strength: float) -> Floats:
    """The scales of one strength: channels of one output share their largest magnitude; the mean logarithm is zero."""
    of_x, of_w = np.zeros((2, int(fold.channels.max()) + 1), np.float32)
    np.maximum.at(of_x, fold.channels, largest)
    for weight in weights:
        np.maximum.at(of_w, fold.channels, np.abs(weight).max(axis=0))
    used = (of_x > 0) & (of_w > 0)
    wanted = of_x[used] ** strength / of_w[used] ** (1 - strength)
    # 1 where no channel of the linears comes from an output, e.g. queries and keys before a projection
    scale = np.ones_like(of_x)
    scale[used] = np.clip(wanted / np.exp(np.log(wanted).mean()), LEAST, MOST)
    return scale


def _loss(weights: list[Floats], statistics: Statistics, scale: Floats, scheme: Scheme) -> float:
    """Noise-to-signal ratio, summed over the linears, with inputs divided by `scale` [K]."""
    scaled = statistics.divided(scale)
    return sum(relative_noise(weight * scale, scheme.quantize(weight * scale, scaled), scaled) for weight in weights)
