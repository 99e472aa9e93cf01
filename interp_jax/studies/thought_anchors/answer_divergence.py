"""KL divergence between two empirical answer distributions, under each documented smoothing.

The published code exists in states that smooth differently, and with counts near 100 the choice
decides the numbers (arXiv 2506.19143; the smoothing is in the code, not in the paper). Every
choice has a name here. The default, `jeffreys`, adds one half to every count on both sides: the
divergence is then a true KL between two proper distributions, cannot be negative, is bounded by
the data (about ln(2n+1)), and does not hinge on an arbitrary small constant as `released` does,
where an outcome that one side lacks costs 20 to 25 nats.

No smoothing removes the finite-sample floor of about (V-1)/2 * (1/n1 + 1/n2); compare a value with
its null (`importance.py`), not with zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp_jax.runtime.errors import UserError


@dataclass(frozen=True)
class Smoothing:
    """How counts become distributions.

    Attributes:
        alpha: added to every count of the vocabulary, on both sides.
        weights: `smoothed` weighs the log ratios by the smoothed first distribution (a KL
            divergence); `raw` by the unsmoothed one (not a divergence; its sum can be negative
            and is clipped at zero).
        outcomes: `answers` compares answers; `correctness` only correct against wrong.
    """

    alpha: float
    weights: Literal["smoothed", "raw"] = "smoothed"
    outcomes: Literal["answers", "correctness"] = "answers"


SMOOTHINGS: dict[str, Smoothing] = {
    "jeffreys": Smoothing(0.5),
    # Made the released labels (code of June and August 2025).
    "released": Smoothing(1e-9),
    "laplace": Smoothing(1.0),
    # Code of October 2025: its default, its scatter script, and some of its runs.
    "raw_laplace": Smoothing(1.0, "raw"),
    "raw_half": Smoothing(0.5, "raw"),
    "raw_tiny": Smoothing(1e-9, "raw"),
    # Two outcomes, (c + alpha) / (n + 2 alpha) on both sides.
    "correctness": Smoothing(0.5, "smoothed", "correctness"),
    "correctness_tiny": Smoothing(1e-9, "smoothed", "correctness"),
}
"""Named smoothings; the first is the default."""


def smoothing(name: str) -> Smoothing:
    """The smoothing called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in SMOOTHINGS:
        raise UserError(
            found=f"smoothing {name!r}",
            expected="one of " + ", ".join(SMOOTHINGS),
            do="name one of these",
        )
    return SMOOTHINGS[name]


def count_divergence(first: np.ndarray, second: np.ndarray, how: Smoothing) -> np.ndarray:
    """D(first || second) in nats, from counts over one vocabulary.

    Args:
        first, second: counts `[..., V]`, same V; leading axes broadcast.
        how: the smoothing (its `outcomes` is the caller's business).

    Returns:
        float64 `[...]`, at least 0; 0 where either side is empty.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    size = first.shape[-1]
    n1, n2 = first.sum(-1, keepdims=True), second.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (first + how.alpha) / (n1 + how.alpha * size)
        q = (second + how.alpha) / (n2 + how.alpha * size)
        weights = p if how.weights == "smoothed" else first / n1
        terms = np.where(weights > 0, weights * np.log(p / q), 0.0)
    total = np.maximum(terms.sum(-1), 0.0)
    return np.where((n1[..., 0] > 0) & (n2[..., 0] > 0), total, 0.0)
