"""Which tokens may be drawn: top-k, nucleus and min-p as exact thresholds on blocks of logits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.generation.inverse_cdf import BLOCK, bin_of_unit, rows_block
from interp_jax.generation.thresholds import largest_threshold


class RowNumbers(NamedTuple):
    """What the filters need of each row, all `[R]`.

    Attributes:
        top: f32, the row's greatest logit (0 if none is finite).
        total: f32, sum over the vocabulary of `exp((logit - top) / temperature)`. Not read when
            there is a top-k filter (its own sum counts then) or no nucleus.
        temperature, top_p, min_p: f32.
        top_k: int32.
    """

    top: jax.Array
    total: jax.Array
    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    min_p: jax.Array


class Kept(NamedTuple):
    """Masses of the tokens that passed.

    Attributes:
        mass: f32 [R, N, BLOCK], `exp((logit - top) / temperature)`, 0 for what is filtered.
        complete: Bool[R], whether the blocks held every token that passes; see `floor`.
    """

    mass: jax.Array
    complete: jax.Array


def tempered_mass(logits: jax.Array, numbers: RowNumbers) -> jax.Array:
    """`exp((logit - top) / temperature)` of f32 [R, ...], at most 1."""
    shape = (-1,) + (1,) * (logits.ndim - 1)
    scaled = (logits - numbers.top.reshape(shape)) / numbers.temperature.reshape(shape)
    return jnp.exp(scaled)


def filter_blocks(
    blocks: jax.Array,
    numbers: RowNumbers,
    *,
    use_top_k: bool,
    use_top_p: bool,
    use_min_p: bool,
    floor: jax.Array | None = None,
) -> Kept:
    """Applies top-k, then the nucleus of what is left, then min-p.

    Args:
        blocks: f32 [R, N, BLOCK], logits in the order of the token ids.
        numbers: per-row numbers.
        use_top_k, use_top_p, use_min_p: which filters exist.
        floor: f32 [R]; given when `blocks` are a part of the vocabulary that is sure to hold
            every logit above the floor. Tokens at or below it are left out, and `complete` says
            for which rows that changed nothing.

    The rules, as in transformers' warpers:

    - top-k keeps every logit >= the k-th greatest, so ties at the boundary all stay;
    - the nucleus is the smallest set of most probable tokens whose mass is >= top_p of the mass
      that top-k left; among equal masses at the boundary the lowest ids come in first (so that
      top_p -> 0 meets greedy). transformers leaves that order to an unstable sort;
    - min-p keeps tokens of at least min_p times the greatest probability.

    Masses are summed in float32: within about 1e-6 of the boundary the nucleus may hold a token
    more or less than a sum in another order or precision would give.
    """
    shape = blocks.shape
    logits = blocks.reshape(shape[0], -1)
    if floor is not None:
        logits = jnp.where(logits > floor[:, None], logits, -jnp.inf)
    mass = tempered_mass(logits, numbers)
    whole = jnp.full(shape[0], floor is None)
    complete, total = whole, numbers.total

    if use_top_k:
        count = (logits > -jnp.inf).sum(axis=1, dtype=jnp.int32)
        wanted = jnp.where(numbers.top_k > 0, numbers.top_k, jnp.int32(2**31 - 1))
        least = largest_threshold(logits, jnp.ones((1, 1)), wanted.astype(jnp.float32))
        mass = jnp.where(logits >= least[:, None], mass, jnp.float32(0))
        total = mass.sum(axis=1)
        complete = whole | (count >= wanted)
    if use_top_p:
        need = numbers.top_p * total
        nucleus = jnp.where(_in_nucleus(mass, need), mass, jnp.float32(0))
        off = numbers.top_p >= 1
        reached = jnp.where(off, False, mass.sum(axis=1) >= need)
        if use_top_k:
            reached = complete  # the sum that counts is then the one over these very tokens
        mass = jnp.where(off[:, None], mass, nucleus)
        complete = whole | reached
    if use_min_p:
        mass = jnp.where(mass >= numbers.min_p[:, None], mass, jnp.float32(0))
        if floor is not None and not (use_top_k and use_top_p):
            # What lies at the floor fails min-p, so that it does not matter who else refuses it.
            complete = complete | (tempered_mass(floor, numbers) < numbers.min_p)
    return Kept(mass=mass.reshape(shape), complete=complete)


def _in_nucleus(mass, need):
    """Bool[R, N]: above the threshold, or at it and among the lowest ids that are needed."""
    threshold = largest_threshold(mass, mass, need)
    above = mass > threshold[:, None]
    tied = (mass == threshold[:, None]).reshape(mass.shape[0], -1, BLOCK)
    lacking = need - jnp.where(above, mass, jnp.float32(0)).sum(axis=1)
    ties_per_block = tied.sum(axis=2, dtype=jnp.int32)
    ties = ties_per_block.sum(axis=1)
    wanted = jnp.ceil(lacking / jnp.where(threshold > 0, threshold, jnp.float32(1)))
    wanted = jnp.clip(wanted, 1, jnp.float32(2**30)).astype(jnp.int32)
    wanted = jnp.where(threshold > 0, jnp.minimum(wanted, ties), ties)
    # The token at which the running count of ties reaches `wanted`.
    slot, inside = bin_of_unit(ties_per_block, wanted - 1)
    place, _ = bin_of_unit(rows_block(tied, slot).astype(jnp.int32), inside)
    position = jnp.arange(mass.shape[1], dtype=jnp.int32)
    last = slot * BLOCK + place
    return above | (tied.reshape(mass.shape) & (position[None, :] <= last[:, None]))
