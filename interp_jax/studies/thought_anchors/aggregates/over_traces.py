"""Means over traces, and tests between paired means, with nothing undefined left unsaid.

A trace is the unit: sentences of one trace share a problem, a model and a chain of thought, so
counting them as independent makes every difference significant. Values are averaged within a
trace first (arXiv 2506.19143, figures), and errors are over traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class OverTraces:
    """A mean over traces.

    Attributes:
        traces: n, traces that have a value.
        mean: NaN without traces.
        se: standard error of the mean; NaN below two traces.
        low, high: 95 % interval by Student's t; NaN below two traces.
    """

    traces: int
    mean: float
    se: float
    low: float
    high: float


def mean_over_traces(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> OverTraces:
    """Mean, standard error and t interval of one value per trace; NaN values are left out."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    n, nan = len(values), float("nan")
    if not n:
        return OverTraces(0, nan, nan, nan, nan)
    mean = float(values.mean())
    if n == 1:
        return OverTraces(1, mean, nan, nan, nan)
    se = float(values.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * se
    return OverTraces(n, mean, se, mean - half, mean + half)


@dataclass(frozen=True)
class PairedTest:
    """Two values per trace compared.

    Attributes:
        traces: n, traces that have both.
        difference: mean of first - second; `se` its standard error (NaN below two traces).
        t, p_t: paired t test, two-sided; NaN below two traces or without any spread.
        p_wilcoxon: signed-rank test, two-sided; NaN below two traces or without any difference.
            With n traces it cannot fall below 2 / 2**n.
    """

    traces: int
    difference: float
    se: float
    t: float
    p_t: float
    p_wilcoxon: float


def paired_test(first: np.ndarray, second: np.ndarray) -> PairedTest:
    """Compares two values per trace over the traces that have both.

    Args:
        first, second: float `[traces]`, NaN where a trace has no value.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    difference = difference[np.isfinite(difference)]
    over, nan = mean_over_traces(difference), float("nan")
    t = p_t = p_wilcoxon = nan
    if over.traces >= 2:
        # The spread of equal numbers is rounding of their mean.
        if over.se > 1e-12 * np.abs(difference).max(initial=0.0):
            t = over.mean / over.se
            p_t = float(2 * stats.t.sf(abs(t), over.traces - 1))
        p_wilcoxon = signed_rank(difference)
    return PairedTest(over.traces, over.mean, over.se, t, p_t, p_wilcoxon)


def signed_rank(difference: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; zeros are left out, NaN if nothing is left.

    Exact for up to 20 differences (ties included, by counting all signs' rank sums), else the
    normal approximation with the correction for ties.
    """
    difference = difference[difference != 0]
    n = len(difference)
    if not n:
        return float("nan")
    # Doubled, so that shared ranks are whole numbers.
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)
    observed = int(ranks[difference > 0].sum())
    total = int(ranks.sum())
    smaller = min(observed, total - observed)
    if n <= 20:
        ways = np.zeros(total + 1)
        ways[0] = 1
        for rank in ranks.tolist():
            ways[rank:] = ways[rank:] + ways[: total + 1 - rank]
        return float(min(1.0, 2 * ways[: smaller + 1].sum() / 2.0**n))
    z = (smaller - total / 2) / (np.sqrt(np.square(ranks.astype(np.float64)).sum()) / 2)
    return float(min(1.0, 2 * stats.norm.cdf(z)))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction; NaN (not tested) stays NaN and does not count.

    Returns:
        float64, same shape: the smallest family-wise level at which each would be rejected.
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
