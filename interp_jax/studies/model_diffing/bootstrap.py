"""Intervals from resampled rows: conversations are drawn again, never tokens.

Tokens of one conversation go together, and an interval that draws them one by one is too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from interp_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with a percentile interval; NaN ends where there is but one row.

    Attributes:
        value: of all rows. low, high: ends. rows: how many there were.
    """

    value: float
    low: float
    high: float
    rows: int


class Resamples:
    """The same resamples of rows for everything that is compared.

    Args:
        rows: how many there are.
        times: resamples. seed: of the draws. confidence: two-sided.

    Raises:
        UserError: no rows.
    """

    def __init__(self, rows: int, *, times: int = 2000, seed: int = 0, confidence: float = 0.95):
        if rows < 1 or times < 1:
            raise UserError(
                found=f"{rows} rows and {times} resamples", expected="at least one of each",
                do="give more data",
            )
        self.rows, self.confidence = rows, confidence
        draw = np.random.default_rng([seed, rows])
        # How often each row is in each resample.
        self.counts = draw.multinomial(rows, np.full(rows, 1 / rows), size=times)

    def of_sums(self, sums: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Interval:
        """The interval of a number made of sums over rows.

        Args:
            sums: float64 [K, rows].
            function: [K, R] sums of R resamples -> [R]; called once more with R = 1 for all rows.
        """
        sums = np.asarray(sums, np.float64)
        value = float(function(sums.sum(axis=1, keepdims=True))[0])
        if self.rows < 2:
            return Interval(value, float("nan"), float("nan"), self.rows)
        drawn = np.asarray(function(sums @ self.counts.T), np.float64)
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return Interval(value, float("nan"), float("nan"), self.rows)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(value, float(low), float(high), self.rows)

    def mean(self, totals: np.ndarray, counts: np.ndarray) -> Interval:
        """Of sum over sum, e.g. of a divergence over tokens: [rows] each."""
        return self.of_sums(np.stack([totals, counts]), lambda s: divide(s[0], s[1]))

    def recovered(self, totals: np.ndarray, baseline: np.ndarray) -> Interval:
        """1 - sum / sum of the baseline over the same tokens: [rows] each."""
        return self.of_sums(np.stack([totals, baseline]), lambda s: 1 - divide(s[0], s[1]))

    def difference(self, first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> Interval:
        """Of the means of two conditions over the same tokens, first - second."""
        sums = np.stack([first, second, counts])
        return self.of_sums(sums, lambda s: divide(s[0] - s[1], s[2]))


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where below is 0."""
    return np.where(below != 0, above / np.where(below != 0, below, 1.0), np.nan)
