"""What a pass over activations knows of every latent, and the bands that examples fall in."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from interp_jax.dictionaries.examples_keep import mixed
from interp_jax.dictionaries.examples_slots import Slots
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError

BINS_PER_OCTAVE, LOWEST, HIGHEST = 4, -16, 16
"""The histogram: bins evenly spaced in log2, from 2^-16 to 2^16."""
STEPS_PER_OCTAVE = 2
NEVER = np.iinfo(np.int64).min // 2  # level of a latent that was never active
LAST_KEY = np.iinfo(np.uint64).max


@dataclasses.dataclass(frozen=True)
class ExamplePlan:
    """How much is kept.

    Attributes:
        top: strongest examples per latent, of different documents.
        per_band: sampled examples per latent and band, of different documents.
        fractions: where bands are cut, in shares of the given maximum, falling. There is one
            band more than cuts, with or without maxima.
        before, after: tokens shown around a peak.
    """

    top: int = 12
    per_band: int = 4
    fractions: tuple[float, ...] = (0.95, 0.75, 0.5, 0.25)
    before: int = 20
    after: int = 11

    def __post_init__(self):
        cuts = self.fractions
        falling = all(a > b for a, b in zip(cuts, cuts[1:], strict=False))
        if min(self.top, self.per_band) < 1 or min(self.before, self.after) < 0 or not (
            falling and all(0 < cut < 1 for cut in cuts)
        ):
            raise UserError(
                found=f"{self}",
                expected="top and per_band of at least 1, a context that is not negative, and "
                "falling fractions between 0 and 1",
                do="correct the plan",
            )

    @property
    def bands(self) -> int:
        """Q, how many bands there are."""
        return len(self.fractions) + 1

    @property
    def window(self) -> int:
        """W, tokens of an example."""
        return self.before + 1 + self.after


@dataclasses.dataclass
class Collection:
    """What is known so far. `collect` changes it in place.

    Attributes:
        plan: what is kept.
        seed: uint64, of the sample.
        maxima: float32 [F] or None.
        tokens: tokens counted.
        active: int64 [F], tokens at which the latent is active.
        total: float64 [F], sum of its values.
        largest: float32 [F].
        histogram: int64 [F, 128].
        level: int64 [F], of the largest value.
        top: strongest examples.
        bands: sampled examples.
        weakest: float32 [F], below it nothing can join `top`.
        latest: uint64 [F, Q], above it no draw can join the band.
    """

    plan: ExamplePlan
    seed: np.uint64
    maxima: np.ndarray | None
    tokens: int
    active: np.ndarray
    total: np.ndarray
    largest: np.ndarray
    histogram: np.ndarray
    level: np.ndarray
    top: Slots
    bands: Slots
    weakest: np.ndarray
    latest: np.ndarray


def start(
    latents: int,
    key: jax.Array,
    plan: ExamplePlan = ExamplePlan(),  # noqa: B008 (frozen)
    maxima: np.ndarray | None = None,
) -> Collection:
    """A collection without any data.

    Args:
        latents: F.
        key: typed key of the sample.
        plan: what is kept.
        maxima: float [F], largest activation of each latent in an earlier pass, for the paper's
            bands. A value above its maximum belongs to the strongest band.

    Raises:
        UserError: maxima of another shape, negative or not finite; not a typed key.
    """
    if maxima is not None:
        maxima = np.asarray(maxima, np.float32)
        if maxima.shape != (latents,) or not np.isfinite(maxima).all() or maxima.min() < 0:
            raise UserError(
                found=f"maxima of shape {maxima.shape}", expected=f"[{latents}] finite numbers "
                "of at least 0", do="give the largest activation of every latent",
            )
    words = np.asarray(jax.random.key_data(keys.fold(key, "examples")), np.uint64)
    level = np.full(latents, NEVER if maxima is None else plan.bands - 1, np.int64)
    return Collection(
        plan=plan,
        seed=mixed(*words.reshape(-1)),
        maxima=maxima,
        tokens=0,
        active=np.zeros(latents, np.int64),
        total=np.zeros(latents),
        largest=np.zeros(latents, np.float32),
        histogram=np.zeros((latents, (HIGHEST - LOWEST) * BINS_PER_OCTAVE), np.int64),
        level=level,
        top=Slots.empty(latents, plan.top, plan.window),
        bands=Slots.empty(latents, plan.bands * plan.per_band, plan.window),
        weakest=np.zeros(latents, np.float32),
        latest=np.full((latents, plan.bands), LAST_KEY, np.uint64),
    )


def levels_of(c: Collection, latent: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Which step of the ladder a value stands on; bands are counted down from `c.level`."""
    if c.maxima is None:
        return np.floor(np.log2(value.astype(np.float64)) * STEPS_PER_OCTAVE).astype(np.int64)
    cuts = np.asarray(c.plan.fractions)
    with np.errstate(divide="ignore"):
        share = value.astype(np.float64) / c.maxima[latent].astype(np.float64)
    return (share[:, None] >= cuts).sum(1, dtype=np.int64)


def bands_of(c: Collection, latent: np.ndarray, value: np.ndarray) -> np.ndarray:
    """int64, the band of each value, 0 the strongest."""
    return np.minimum(c.level[latent] - levels_of(c, latent, value), c.plan.bands - 1)
