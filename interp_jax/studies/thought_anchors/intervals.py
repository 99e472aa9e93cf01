"""Intervals for proportions, and random generators keyed by purpose."""

from __future__ import annotations

import zlib

import numpy as np
from scipy import stats


def wilson_interval(
    successes: np.ndarray | int, trials: np.ndarray | int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson score interval of a proportion.

    Args:
        successes, trials: counts, any equal shape; no trials gives the whole of [0, 1].
        confidence: two-sided.

    Returns:
        Lower and upper ends, float64.
    """
    n = np.asarray(trials, np.float64)
    safe = np.where(n > 0, n, 1.0)
    p = np.asarray(successes, np.float64) / safe
    z = stats.norm.ppf(0.5 + confidence / 2)
    centre = (p + z**2 / (2 * safe)) / (1 + z**2 / safe)
    half = z / (1 + z**2 / safe) * np.sqrt(p * (1 - p) / safe + z**2 / (4 * safe**2))
    # Rounding must not leave the observed proportion outside at 0 and at 1.
    low = np.where(n > 0, np.clip(np.minimum(centre - half, p), 0.0, 1.0), 0.0)
    high = np.where(n > 0, np.clip(np.maximum(centre + half, p), 0.0, 1.0), 1.0)
    return low, high


def newcombe_interval(
    successes_1: np.ndarray | int,
    trials_1: np.ndarray | int,
    successes_2: np.ndarray | int,
    trials_2: np.ndarray | int,
    confidence: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Newcombe's interval of p1 - p2 for independent proportions (from their Wilson intervals).

    Unlike a bootstrap it has width when both proportions are 0 or 1. Without trials on a side
    it is built from [0, 1] there.
    """
    p1 = np.asarray(successes_1, np.float64) / np.maximum(trials_1, 1)
    p2 = np.asarray(successes_2, np.float64) / np.maximum(trials_2, 1)
    low1, high1 = wilson_interval(successes_1, trials_1, confidence)
    low2, high2 = wilson_interval(successes_2, trials_2, confidence)
    low = p1 - p2 - np.sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2)
    high = p1 - p2 + np.sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2)
    return low, high


def keyed_generator(seed: int, purpose: str, item: int) -> np.random.Generator:
    """Generator for one purpose and item, so that no draw depends on what else was drawn."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), item])
