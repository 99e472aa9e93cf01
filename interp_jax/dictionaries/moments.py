"""Mean and spread of each coordinate over many rows, kept as a mergeable running sum.

Double precision on the host: what a normaliser is made from, and what a cache on disk carries.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Moments:
    """Of rows [n, ...] (Chan, Golub, LeVeque 1979).

    Attributes:
        count: rows seen.
        mean: float64 [...].
        squares: float64 [...], summed squared deviations from the mean.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Moments:
        """Of no rows."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    def add(self, rows: np.ndarray) -> None:
        """Takes rows [n, ...] in."""
        if not len(rows):
            return
        rows = np.asarray(rows).astype(np.float64)
        mean = rows.mean(axis=0)
        gap, total = mean - self.mean, self.count + len(rows)
        self.squares = (
            self.squares
            + np.square(rows - mean).sum(axis=0)
            + np.square(gap) * (self.count * len(rows) / total)
        )
        self.mean = self.mean + gap * (len(rows) / total)
        self.count = total

    def std(self) -> np.ndarray:
        """Standard deviation of each coordinate, dividing by n - 1; NaN for fewer than two rows."""
        if self.count < 2:
            return np.full(self.mean.shape, np.nan)
        return np.sqrt(self.squares / (self.count - 1))
