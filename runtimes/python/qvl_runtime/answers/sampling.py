"""Choosing the next token from its logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..common.arrays import Doubles, Floats
from ..common.checks import check_float, check_int
from ..errors import EngineError

Logits = Floats
Indices = npt.NDArray[np.intp]
TokenPicker = Callable[[Logits], int]

PART = 256
"""Tokens whose mass is summed to find the one that is drawn; logits whose maximum is taken to find the likeliest."""
MANY = 1 << 15
"""Tokens that take longer to sort than to count by their logits."""
BINS = 4096
NARROW = 1e-30
"""The least range of logits that is divided into bins: of a smaller one, float32 cannot hold the bins per logit."""
CAUTION = 0.99
"""Tokens a little below a border are looked at, too: it is computed with rounding errors."""


@dataclass(frozen=True)
class Sampling:
    """Sampling options: greedy at `temperature` 0, else from the `top_k` likeliest (0: all) within mass `top_p`.

    Of these only tokens at least `min_p` times as likely as the likeliest are kept. NumPy numbers are accepted.
    Raises PromptError for values out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        checked = {
            "temperature": check_float("temperature", self.temperature),
            "top_p": check_float("top_p", self.top_p, most=1, above=True),
            "top_k": check_int("top_k", self.top_k, 0, fix="0 keeps all tokens"),
            "seed": None if self.seed is None else check_int("seed", self.seed, 0),
            "min_p": check_float("min_p", self.min_p, most=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def picker(self) -> TokenPicker:
        """Returns a function from logits [vocab] to a token id, with its own random state."""
        if self.temperature == 0:
            return _best
        rng, nucleus = np.random.default_rng(self.seed), Nucleus(self)

        def draw(logits: Logits) -> int:
            tokens, mass = nucleus(logits)
            place = drawn_place(mass, rng.random())
            return place if tokens is None else int(tokens[place])

        return draw

    def probabilities(self, logits: Logits) -> Doubles:
        """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`.

        Filters apply in the order of transformers: `top_k`, then `top_p`, then `min_p`.
        """
        tokens, mass = Nucleus(self)(logits)
        result = np.zeros(len(logits))
        result[slice(None) if tokens is None else tokens] = mass / mass.sum()
        return result


class Nucleus:
    """From logits [vocab] to the tokens that may be drawn, in the order of their ids, and their mass.

    The tokens are None for the whole vocabulary, of which some may have no mass. The likeliest token has a mass of 1.
    What is returned is overwritten by the next call: memory that is new for each token takes longer to get than to
    fill. Raises EngineError if a logit is not finite, except for tokens that are ruled out.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._memory = np.empty(0)
        self._bins = Bins(sampling.top_p)

    def __call__(self, logits: Logits) -> tuple[Indices | None, Doubles]:
        tokens, count = None, self._sampling.top_k
        best = _finite(logits.max())
        if 0 < count < len(logits):
            tokens = likeliest(logits, count)
            logits = logits[tokens]
        mass = self._mass(logits, best)
        if self._sampling.top_p == 1 and self._sampling.min_p == 0:
            return tokens, mass
        total = mass.sum()
        share = (1 - self._sampling.top_p) * total / len(mass)
        likely = mass >= CAUTION * max(share, self._sampling.min_p)
        if self._sampling.min_p == 0 and np.count_nonzero(likely) > MANY:
            lowest = best + np.float32(self._sampling.temperature * math.log(CAUTION * share))
            if self._bins.cut(logits, mass, total, best, lowest):
                return tokens, mass
        kept = self._cut(logits, np.flatnonzero(likely), total, best)
        return kept if tokens is None else tokens[kept], mass[kept]

    def _mass(self, logits: Logits, best: np.float32) -> Doubles:
        if len(self._memory) < len(logits):
            self._memory = np.empty(len(logits))
        mass = self._memory[: len(logits)]
        mass[:] = logits
        mass -= best
        if self._sampling.temperature != 1:
            with np.errstate(over="ignore"):  # with a tiny temperature all mass is on the best token
                mass /= self._sampling.temperature
        return np.exp(mass, out=mass)

    def _cut(self, logits: Logits, tokens: Indices, total: np.float64, best: np.float32) -> Indices:
        """Returns the tokens within `top_p` and `min_p`, of those that may be among them."""
        candidates = logits[tokens]
        falling = np.sort(candidates)[::-1]
        chances = Nucleus(self._sampling)._mass(falling, best)
        chances /= total
        inside = (np.cumsum(chances) - chances < self._sampling.top_p) & (chances >= self._sampling.min_p * chances[0])
        count = int(inside.sum())
        return tokens[_at_least(candidates, falling[count - 1], count)]


class Bins:
    """Takes the mass from tokens beyond `top_p` if there are too many to sort: counts them by bins of falling logits.

    Only tokens of the bin in which `top_p` is reached are sorted.
    """

    def __init__(self, top_p: float) -> None:
        self._top_p = top_p
        self._steps, self._bins, self._mask = np.empty(0, np.float32), np.empty(0, np.intp), np.empty(0, np.bool_)

    def cut(self, logits: Logits, mass: Doubles, total: np.float64, best: np.float32, lowest: np.float32) -> bool:
        """Cuts `mass`, which has this `total`; the last token within `top_p` has a logit from `lowest` to `best`.

        Returns False, with the mass as it was, if rounding errors could decide which token is the last, or if the
        temperature is so low that no bins fit between both logits.
        """
        if best - lowest < NARROW:
            return False
        bins = self._of(logits, best, lowest)
        ends = np.cumsum(np.bincount(bins, mass, BINS))
        reached, close = self._top_p * total, rounding(mass) * total
        first, last = np.searchsorted(ends, [reached - close, reached + close])
        if first != last or first == BINS - 1:
            return False
        tokens = np.flatnonzero(np.equal(bins, first, out=self._mask))
        order = tokens[np.argsort(-logits[tokens], kind="stable")]
        sums = np.cumsum(mass[order]) + (ends[first - 1] if first else 0.0)
        count = int(np.searchsorted(sums, reached)) + 1
        if count > len(order) or np.abs(sums[max(count - 2, 0) : count] - reached).min() <= close:
            return False
        mass[order[count:]] = 0
        mass *= np.less_equal(bins, first, out=self._mask)  # faster than an assignment to some of them
        return True

    def _of(self, logits: Logits, best: np.float32, lowest: np.float32) -> Indices:
        """Returns the bin of each token; those below `lowest` are in the last one."""
        if len(self._steps) != len(logits):
            self._steps, self._bins = np.empty(len(logits), np.float32), np.empty(len(logits), np.intp)
            self._mask = np.empty(len(logits), np.bool_)
        np.subtract(best, logits, out=self._steps)
        self._steps *= np.float32(BINS - 1) / (best - lowest)
        np.minimum(self._steps, np.float32(BINS - 1), out=self._steps)
        np.copyto(self._bins, self._steps, casting="unsafe")
        return self._bins


def rounding(mass: Doubles) -> float:
    """Returns more than the rounding errors of sums of `mass`, in whatever order, as a share of all of it."""
    return float(4 * len(mass) * np.finfo(np.float64).eps)


def drawn_place(mass: Doubles, chance: float) -> int:
    """Returns the first place up to which the share of the mass is above `chance`; overwrites `mass`.

    The sum over all places is one of many steps, each of which waits for the one before. So parts are added up first,
    and the sum over all decides only where its rounding errors could.
    """
    count = len(mass) // PART
    if count > 1:
        ends = np.cumsum(mass[: count * PART].reshape(-1, PART).sum(axis=1))
        total = ends[-1] + mass[count * PART :].sum()
        target, close = chance * total, rounding(mass) * total
        part = int(np.searchsorted(ends, target, side="right"))
        inside = np.cumsum(mass[part * PART : (part + 1) * PART if part < count else None])
        target -= ends[part - 1] if part else 0.0
        place = int(np.searchsorted(inside, target, side="right"))
        if place < len(inside) and inside[place] - target > close and target - inside[place - 1] * (place > 0) > close:
            return part * PART + place
    np.cumsum(mass, out=mass)
    mass /= mass[-1]
    return int(np.searchsorted(mass, chance, side="right"))


def _best(logits: Logits) -> int:
    """Returns the likeliest token, the first among equals; raises EngineError if its logit is not finite."""
    best = int(logits.argmax())  # the index of a NaN if there is one
    _finite(logits[best])
    return best


def _finite(highest: np.float32) -> np.float32:
    if not math.isfinite(highest):
        raise EngineError("the model's logits are not finite", fix="check the bundle with `inspect --verify`")
    return highest


def likeliest(logits: Logits | Doubles, count: int) -> Indices:
    """Returns the `count` likeliest tokens in the order of their ids; of tokens with equal logits the lower ids.

    As many parts of the logits have a maximum of at least `bound`, so that no token below it is among them.
    """
    tokens = None
    maxima = logits[: len(logits) // PART * PART].reshape(PART, -1).max(axis=0)
    if count <= len(maxima):
        bound = np.partition(maxima, -count)[-count]
        tokens = np.flatnonzero(logits >= bound)
        logits = logits[tokens]
    found = _at_least(logits, np.partition(logits, -count)[-count], count)
    return found if tokens is None else tokens[found]


def _at_least(logits: Logits | Doubles, least: np.floating, count: int) -> Indices:
    """Returns the `count` likeliest tokens in the order of their ids, given the lowest of their logits.

    Of tokens with equal logits the lower ids come first.
    """
    found, equal = logits > least, np.flatnonzero(logits == least)
    found[equal[: count - np.count_nonzero(found)]] = True
    return np.flatnonzero(found)
