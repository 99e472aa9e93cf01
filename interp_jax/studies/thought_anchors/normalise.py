"""The attention-suppression matrix: normalisation and the controls that it needs.

E[j, i] is the mean log-KL at target sentence j when source sentence i is hidden from attention
(arXiv 2506.19143, attention suppression). Nearly all of its signal is distance: neighbours matter
most. So beside the normalised matrix stand its distance profile, what is left when the profile
is taken out, and a null in which sources are shuffled.

All matrices here are `[target, source]`, float64, NaN unless the source is before the target;
the released files and `sentence_matrix` are source by target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from interp_jax.studies.thought_anchors.intervals import keyed_generator


def normalise_suppression(effects: np.ndarray) -> np.ndarray:
    """Subtracts from each target its mean over earlier sources.

    Args:
        effects: E `[S, S]`, target by source; cells with source >= target are ignored, missing
            ones may be NaN.

    Returns:
        `[S, S]` with row means 0 (target 1, which has one source, is 0 there).
    """
    effects = np.array(effects, np.float64)
    effects[~_earlier(len(effects))] = np.nan
    return effects - _row_means(effects)[:, None]


def distance_profile(matrix: np.ndarray) -> np.ndarray:
    """Mean over pairs at each distance, `[S]`; entry 0 and empty distances are NaN."""
    size = len(matrix)
    total, count = _by_distance(matrix)
    profile = np.full(size, np.nan)
    profile[count > 0] = total[count > 0] / count[count > 0]
    return profile


def distance_residual(matrix: np.ndarray) -> np.ndarray:
    """Each cell minus the mean of the OTHER pairs at its distance: the distance-matched control.

    A cell that is alone at its distance (the longest one) has nothing to be compared with: NaN.
    """
    matrix = np.asarray(matrix, np.float64)
    total, count = _by_distance(matrix)
    size = len(matrix)
    gap = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :])
    others = count[gap] - 1
    known = np.isfinite(matrix) & (others > 0)
    rest = (total[gap] - np.where(known, matrix, 0.0)) / np.maximum(others, 1)
    return np.where(known, matrix - rest, np.nan)


def source_importance(matrix: np.ndarray) -> np.ndarray:
    """Mean of each source over its later targets, `[S]`; NaN where there is none."""
    return _row_means(np.asarray(matrix, np.float64).T)


@dataclass(frozen=True)
class ShuffledNull:
    """Source importance under a shuffled null. Arrays are `[S]`, NaN for the last sentence.

    Attributes:
        observed: importance of each source.
        mean, high: mean and `confidence` quantile of the null of that source.
        p_value: share of draws at least as large as observed (never 0), source by source.
        family_p_value: the same against the largest source of each draw, in units of each
            source's null spread, so that it holds for all sources at once.
    """

    observed: np.ndarray
    mean: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    family_p_value: np.ndarray


def shuffled_source_null(
    matrix: np.ndarray,
    *,
    draws: int = 500,
    seed: int = 0,
    keep_distance: bool = True,
    confidence: float = 0.95,
) -> ShuffledNull:
    """What source importance would be if it did not matter which sentence is the source.

    Args:
        matrix: normalised suppression matrix, target by source.
        draws: shuffles.
        seed: of the shuffles.
        keep_distance: exchange cells only with cells at the same distance, so that locality
            stays as it is; otherwise within each target, over its earlier sources.
        confidence: of `high`.
    """
    matrix = np.asarray(matrix, np.float64)
    size = len(matrix)
    rows, columns = np.nonzero(np.isfinite(matrix))
    groups = (rows - columns) if keep_distance else rows
    order = np.argsort(groups, kind="stable")
    rows, columns, groups = rows[order], columns[order], groups[order]
    values = matrix[rows, columns]
    counts = np.bincount(columns, minlength=size).astype(np.float64)
    safe = np.maximum(counts, 1.0)
    rng = keyed_generator(seed, "shuffled sources", 0)
    null = np.zeros((draws, size))
    for draw in range(draws):
        # Sorting by (group, random number) shuffles within every group at once.
        dealt = values[np.lexsort((rng.random(len(values)), groups))]
        null[draw] = np.bincount(columns, weights=dealt, minlength=size) / safe
    observed = np.bincount(columns, weights=values, minlength=size) / safe
    spread = null.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    highest = np.where(counts > 0, (null - null.mean(0)) / scale, -np.inf).max(1, initial=-np.inf)
    reached = (null >= observed - 1e-12).sum(0)
    standard = (observed - null.mean(0)) / scale
    family = (highest[:, None] >= standard[None, :] - 1e-12).sum(0)
    fields = (
        observed,
        null.mean(0),
        np.quantile(null, confidence, axis=0),
        (1 + reached) / (1 + draws),
        (1 + family) / (1 + draws),
    )
    return ShuffledNull(*(np.where(counts > 0, field, np.nan) for field in fields))


def rank_agreement(
    first: np.ndarray, second: np.ndarray, *, within: int | None = None
) -> tuple[float, int]:
    """Spearman correlation of two matrices over the pairs both know.

    Args:
        first, second: `[S, S]` in the same orientation.
        within: only pairs at this distance or less.

    Returns:
        Correlation (NaN with fewer than three pairs or a constant side) and number of pairs.
    """
    size = len(first)
    gap = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :])
    known = np.isfinite(first) & np.isfinite(second)
    known &= gap <= (size if within is None else within)
    a, b = np.asarray(first)[known], np.asarray(second)[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan"), len(a)
    return float(stats.spearmanr(a, b).statistic), len(a)


def _earlier(size: int) -> np.ndarray:
    return np.arange(size)[None, :] < np.arange(size)[:, None]


def _row_means(matrix: np.ndarray) -> np.ndarray:
    known = np.isfinite(matrix)
    count = known.sum(1)
    mean = np.where(known, matrix, 0.0).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _by_distance(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.asarray(matrix, np.float64)
    rows, columns = np.nonzero(np.isfinite(matrix))
    gap = np.abs(rows - columns)
    total = np.bincount(gap, weights=matrix[rows, columns], minlength=len(matrix))
    return total, np.bincount(gap, minlength=len(matrix))
