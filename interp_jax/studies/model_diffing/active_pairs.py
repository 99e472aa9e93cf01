"""A sparse code as (row, latent) pairs, and what can be computed from them alone.

At 100 active latents of 73,728 nearly all of a code is zero, and so is what a dense product with
the decoder does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.compaction import at_least
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.selection import ordered_bits
from interp_jax.dictionaries.sparse import decode_rows, held
from interp_jax.dictionaries.sparse_rows import lists_of_rows, row_products

EXACT = jax.lax.Precision.HIGHEST


class ActivePairs(NamedTuple):
    """The active latents of each row at a fixed capacity C.

    Attributes:
        values: float32 [N, C], the code, 0 where padding.
        latents: int32 [N, C].
        overfull: int32 [], rows with more than C active latents, of which C are here.
    """

    values: jax.Array
    latents: jax.Array
    overfull: jax.Array


def active_pairs(code: jax.Array, capacity: int) -> ActivePairs:
    """The pairs of a float32 code [N, F] that is not negative."""
    capacity = min(capacity, code.shape[1])
    found = at_least(ordered_bits(code), jnp.int32(1), capacity)
    values = jnp.take_along_axis(code, found.columns, axis=1, mode="clip")
    overfull = jnp.sum(found.counts > capacity, dtype=jnp.int32)
    return ActivePairs(jnp.where(found.there, values, 0.0), found.columns, overfull)


def decode_pairs(
    dictionary: Dictionary, pairs: ActivePairs, x: jax.Array, rows_at_once: int
) -> jax.Array:
    """The reconstruction in the space of the activations, as `Dictionary.decode` gives it.

    Args:
        dictionary: with one code for all outputs.
        pairs: all that is active.
        x: [N, M, D], for a skip path.
        rows_at_once: see `decode_rows`.

    Returns:
        float32 [N, O, D].
    """
    c = dictionary.config
    table = dictionary.array("decoder")
    out = decode_rows(pairs.values, pairs.latents, table, rows_at_once)
    out = out.reshape(-1, c.outs, c.out_width) + dictionary.array("decoder_bias")[None]
    if c.skip:
        out = out + dictionary.skipped(dictionary.normalise(dictionary.rows(x)))
    return dictionary.restore(out)


def pair_products(
    vectors: jax.Array, pairs: ActivePairs, targets: jax.Array, rows_at_once: int
) -> jax.Array:
    """<vector of the latent, target of the row> at the pairs.

    Args:
        vectors: float32 [W, F, D], W tables with a vector for each latent.
        pairs: C of each row.
        targets: float32 [N, Y, D].
        rows_at_once: rows of which the W C vectors are gathered at once, for an accelerator; 1,
            for a CPU: the pairs one after another.

    Returns:
        float32 [N, C, W, Y]; at padding anything.
    """
    if rows_at_once == 1:
        lists = lists_of_rows(pairs.latents, held(pairs.values))
        found = row_products(pairs.values.reshape(-1), lists, vectors, targets)
        return found.reshape(*pairs.values.shape, *found.shape[1:])

    def one(row):
        index, target = row
        return jnp.einsum("wcd,yd->cwy", vectors[:, index], target, precision=EXACT)

    return jax.lax.map(one, (pairs.latents, targets), batch_size=rows_at_once)
