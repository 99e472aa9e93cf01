"""What a pass found, in order, as arrays."""

from __future__ import annotations

import dataclasses

import numpy as np

from interp_jax.dictionaries.examples_collection import (
    BINS_PER_OCTAVE,
    HIGHEST,
    LOWEST,
    STEPS_PER_OCTAVE,
    Collection,
    bands_of,
)
from interp_jax.dictionaries.examples_slots import Slots


@dataclasses.dataclass(frozen=True)
class Shown:
    """Examples, best first. E is [F, n], or [F, Q, n] for bands.

    Attributes:
        value: float32 E, the activation at the peak; 0 where there is no example.
        document: int64 E, its document; -1 where there is no example.
        tokens: int32 [*E, W], -1 where the document has no token.
        activations: float32 [*E, W], of this latent at these tokens.
    """

    value: np.ndarray
    document: np.ndarray
    tokens: np.ndarray
    activations: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a pass found, F latents.

    Attributes:
        tokens: tokens counted.
        active: int64 [F], tokens at which the latent is active.
        density: float64 [F], their share.
        largest: float32 [F]; 0 where never active.
        mean: float64 [F], over the tokens where it is active; NaN where it never is.
        histogram: int64 [F, H], values of active tokens by bin; rows sum to `active`.
        edges: float64 [H + 1] of the bins, evenly spaced in log2. The end bins also hold what
            lies beyond.
        top: strongest first, of different documents.
        bands: Q bands from the strongest down, a uniform sample of the passages in each.
        band_low, band_high: float64 [F, Q], the peaks of a band lie in [low, high); NaN where
            never active.
        before: index of the peak in a window.
    """

    tokens: int
    active: np.ndarray
    density: np.ndarray
    largest: np.ndarray
    mean: np.ndarray
    histogram: np.ndarray
    edges: np.ndarray
    top: Shown
    bands: Shown
    band_low: np.ndarray
    band_high: np.ndarray
    before: int


def finish(collection: Collection) -> Examples:
    """What was found, in order. The collection can go on."""
    c, plan = collection, collection.plan
    alive = c.active > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(alive, c.total / np.maximum(c.active, 1), np.nan)
        density = c.active / c.tokens if c.tokens else np.zeros(len(c.active))
    low, high = _band_ends(c)
    edges = np.exp2(
        np.arange(LOWEST * BINS_PER_OCTAVE, HIGHEST * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE
    )
    free = c.top.value <= 0
    order = np.lexsort((c.top.document, c.top.key, -c.top.value, free), axis=1)
    return Examples(
        tokens=c.tokens, active=c.active.copy(), density=density, largest=c.largest.copy(),
        mean=mean, histogram=c.histogram.copy(), edges=edges,
        top=_shown(c.top.arranged(np.where(np.take_along_axis(free, order, 1), plan.top, order))),
        bands=_shown(_by_band(c), plan.bands),
        band_low=np.where(alive[:, None], low, np.nan),
        band_high=np.where(alive[:, None], high, np.nan),
        before=plan.before,
    )


def _by_band(c: Collection) -> Slots:
    """The sampled examples, band by band, each by key, free slots where a band has fewer."""
    slots, plan = c.bands, c.plan
    size = slots.value.shape[1]
    row, slot = np.nonzero(slots.value > 0)
    band = np.full(slots.value.shape, plan.bands, np.int64)
    band[row, slot] = bands_of(c, row, slots.value[row, slot])
    order = np.lexsort((slots.document, slots.key, band), axis=1)
    ranked = np.take_along_axis(band, order, 1)
    filled = (ranked[:, :, None] == np.arange(plan.bands)).sum(1)
    begin = np.cumsum(filled, axis=1) - filled
    place = np.full((len(order), plan.bands, plan.per_band), size, np.int64)
    who, at = np.nonzero(ranked < plan.bands)
    of = ranked[who, at]
    place[who, of, at - begin[who, of]] = order[who, at]
    return slots.arranged(place.reshape(len(order), -1))


def _shown(slots: Slots, bands: int | None = None) -> Shown:
    arrays = (slots.value, slots.document, slots.tokens, slots.activations)
    if bands is not None:
        arrays = tuple(a.reshape(len(a), bands, -1, *a.shape[2:]) for a in arrays)
    return Shown(*arrays)


def _band_ends(c: Collection) -> tuple[np.ndarray, np.ndarray]:
    """float64 [F, Q] each."""
    if c.maxima is not None:
        cuts = np.asarray([np.inf, *c.plan.fractions, 0.0])
        with np.errstate(invalid="ignore"):
            ends = c.maxima[:, None].astype(np.float64) * cuts
        ends[:, 0] = np.inf
    else:
        step = np.maximum(c.level, -1000)[:, None] + 1 - np.arange(c.plan.bands + 1)
        ends = np.exp2(step / STEPS_PER_OCTAVE)
        ends[:, -1] = 0.0
    return ends[:, 1:], ends[:, :-1]
