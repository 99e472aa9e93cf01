"""Which latents are compared: the effective chat-only set, shared ones beside it, and its halves.

Sign trap: everything here takes the paper's Delta (1: the chat model's own). The column
`dec_norm_diff` of the released tables is 1 - Delta, and there "smallest" means what "largest"
means here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.delta import classes
from interp_jax.runtime.errors import UserError

EFFECTIVE_CHAT_ONLY = 3176
"""Size of the effective chat-only set in the paper: what its L1 crosscoder calls chat-only."""
NU_RANGE = (-0.1, 2.0)
"""Latents with a ratio outside of it take no part in the causality experiment."""
SHRINKAGE, DECOUPLING = 0.2, 0.5
"""nu_eps and nu_r below which a latent counts as the chat model's own in the paper's plots."""


def effective_chat_only(delta: np.ndarray, count: int = EFFECTIVE_CHAT_ONLY) -> np.ndarray:
    """The latents of largest Delta, most chat-specific first; ties by number.

    Args:
        delta: [F], the paper's Delta; NaN is never taken.
        count: how many; -1 for those of class chat-only (Delta > 0.9).

    Returns:
        int64 [count], or fewer where there are not as many.
    """
    delta = np.asarray(delta, np.float64)
    known = np.flatnonzero(np.isfinite(delta))
    if count == -1:
        known = known[np.asarray(classes(jnp.asarray(delta[known], jnp.float32)).chat_only)]
    elif count < 1:
        raise UserError(
            found=f"an effective chat-only set of {count} latents",
            expected="1 or more, or -1 for the class", do="correct the number",
        )
    order = known[np.argsort(-delta[known], kind="stable")]
    return order if count == -1 else order[:count]


def random_shared(delta: np.ndarray, count: int, seed: int = 42) -> np.ndarray:
    """As many latents of class shared, drawn without replacement, ascending: int64 [count]."""
    shared = np.flatnonzero(np.asarray(classes(jnp.asarray(delta, jnp.float32)).shared))
    draw = np.random.default_rng(seed)
    return np.sort(draw.choice(shared, min(count, len(shared)), replace=False))


def eligible(nu_eps: np.ndarray, nu_r: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """bool [F]: alive, and both ratios known and inside `NU_RANGE`."""
    low, high = NU_RANGE
    inside = [(nu >= low) & (nu <= high) for nu in (nu_eps, nu_r)]  # False for NaN
    return inside[0] & inside[1] & np.asarray(alive, bool)


@dataclasses.dataclass(frozen=True)
class Halves:
    """A set of latents cut in two, floor(n / 2) each; the middle one of an odd set is in neither.

    Attributes:
        best: int64 [n // 2], those that should be the chat model's own.
        worst: int64 [n // 2].
    """

    best: np.ndarray
    worst: np.ndarray


def halves_by_delta(latents: np.ndarray, delta: np.ndarray) -> Halves:
    """By Delta: best are the largest."""
    return _halves(latents, -np.asarray(delta, np.float64)[latents])


def halves_by_scaling(latents: np.ndarray, nu_eps: np.ndarray, nu_r: np.ndarray) -> Halves:
    """By Latent Scaling: best have the smallest sum of their ranks by nu_eps and by nu_r."""
    ranks = sum(_ranks(np.asarray(nu, np.float64)[latents]) for nu in (nu_eps, nu_r))
    return _halves(latents, ranks)


def _halves(latents: np.ndarray, badness: np.ndarray) -> Halves:
    latents = np.asarray(latents)
    # By number among equals, whatever the order in which they came.
    order = latents[np.lexsort((latents, badness))]
    half = len(order) // 2
    return Halves(order[:half], order[len(order) - half :])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing their mean rank."""
    found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[place]


def chat_specific(nu_eps: np.ndarray, nu_r: np.ndarray) -> np.ndarray:
    """bool [F]: both ratios below the paper's bounds; False where one is not known."""
    return (np.asarray(nu_eps) < SHRINKAGE) & (np.asarray(nu_r) < DECOUPLING)


def verdicts(latents: np.ndarray, nu_eps: np.ndarray, nu_r: np.ndarray) -> Mapping[str, int]:
    """How many of some latents are what: every latent is in exactly one.

    `chat_specific`: both ratios low. `shrinkage`: nu_eps high, nu_r low. `decoupling`: nu_r high,
    nu_eps low. `both`: both high. `unknown`: a ratio is NaN.
    """
    eps, r = np.asarray(nu_eps)[latents], np.asarray(nu_r)[latents]
    known = np.isfinite(eps) & np.isfinite(r)
    high_eps, high_r = eps >= SHRINKAGE, r >= DECOUPLING
    return {
        "chat_specific": int(np.sum(known & ~high_eps & ~high_r)),
        "shrinkage": int(np.sum(known & high_eps & ~high_r)),
        "decoupling": int(np.sum(known & ~high_eps & high_r)),
        "both": int(np.sum(known & high_eps & high_r)),
        "unknown": int(np.sum(~known)),
    }
