"""Spearman correlation with covariates taken out, and what it is when sentences are shuffled.

    rank everything (ties share their mean rank); regress both sides on the ranked covariates;
    correlate the residuals

which for no covariate is Spearman's coefficient. The null shuffles the sentences of one side's
residuals within the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

MINIMUM_SENTENCES = 5
"""Fewer sentences than this beyond the covariates give no correlation."""


def rank_residuals(values: np.ndarray, covariates: Sequence[np.ndarray] = ()) -> np.ndarray | None:
    """Unit vector of what is left of the ranks of `values`, `[n]`; None if nothing is.

    Args:
        values: finite `[n]`.
        covariates: finite `[n]` each; ranked too.
    """
    n = len(values)
    if n < MINIMUM_SENTENCES + len(covariates):
        return None
    design = np.stack([np.ones(n), *(_standard(stats.rankdata(c)) for c in covariates)], axis=1)
    ranks = _standard(stats.rankdata(values))
    left = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    length = float(np.linalg.norm(left))
    # Rounding of the regression is not what is left of the values.
    return None if length <= 1e-9 * np.sqrt(n) else left / length


def _standard(ranks: np.ndarray) -> np.ndarray:
    centred = ranks - ranks.mean()
    return centred / max(float(np.abs(centred).max()), 1.0)


def partial_spearman(
    first: np.ndarray, second: np.ndarray, covariates: Sequence[np.ndarray] = ()
) -> tuple[float, int]:
    """Rank correlation of two measures over the sentences where everything is known.

    Args:
        first, second: float `[S]`, NaN where unknown.
        covariates: float `[S]` each.

    Returns:
        Correlation (NaN with too few sentences, or where a side is constant or wholly explained
        by the covariates) and number of sentences.
    """
    sides, count = residual_sides(first, second, covariates)
    if sides is None:
        return float("nan"), count
    return float(np.clip(sides[0] @ sides[1], -1.0, 1.0)), count


def residual_sides(
    first: np.ndarray, second: np.ndarray, covariates: Sequence[np.ndarray] = ()
) -> tuple[tuple[np.ndarray, np.ndarray] | None, int]:
    """The two unit vectors whose product is `partial_spearman`, and the number of sentences."""
    columns = [np.asarray(column, np.float64) for column in (first, second, *covariates)]
    known = np.isfinite(columns).all(0)
    a, b, *others = (column[known] for column in columns)
    left, right = rank_residuals(a, others), rank_residuals(b, others)
    sides = None if left is None or right is None else (left, right)
    return sides, int(known.sum())


def shuffles(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random orders of `count` sentences, int `[draws, count]`."""
    return np.argsort(rng.random((draws, count)), axis=1)
