"""Drawing a token with one uniform: a two-level inverse of the cumulative sum, in integers.

A cumulative sum over the vocabulary is slow (18 ms at 64 x 49,152 on a CPU) and, in floats,
can give a token of probability zero a bin of its own through rounding. Here the sums of blocks
pick the block and the block's own 64 weights pick the token. Both levels count in integers:
zero weight is an empty bin, so it cannot be drawn, whatever the uniform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

BLOCK = 64
"""Tokens per block. A vocabulary of SmolLM2, Llama, Qwen or Gemma is a multiple of it."""

_UNITS = 2.0**30
"""Integer units that a row's mass is cut into: int32 holds it, rounding of the parts included."""


def integer_weights(mass: jax.Array) -> jax.Array:
    """Cuts f32 [R, N] (>= 0) into int32 [R, N], 2**30 units per row; 0 everywhere if all are 0.

    Parts of a row below half a unit (relative mass 5e-10) get none.
    """
    total = mass.sum(axis=1, keepdims=True)
    scale = jnp.where(total > 0, jnp.float32(_UNITS) / total, jnp.float32(0))
    return jnp.rint(mass * scale).astype(jnp.int32)


def unit_of(uniforms: jax.Array, total: jax.Array) -> jax.Array:
    """Scales uniforms f32 [R] in [0, 1) to units int32 [R] in 0 .. total - 1 (-1 if total = 0)."""
    scaled = jnp.floor(uniforms * total.astype(jnp.float32)).astype(jnp.int32)
    return jnp.minimum(scaled, total - 1)  # the product may round up to the total


def bin_of_unit(weights: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first bin whose cumulative weight exceeds `unit`, and the unit's place inside it.

    Args:
        weights: int32 [R, N], >= 0, row sums below 2**31.
        unit: int32 [R], 0 <= unit < row sum. (At -1, for rows of no weight: bin 0.)

    Returns:
        bin int32 [R], place int32 [R] in 0 .. weights[bin] - 1.
    """
    cumulative = jnp.cumsum(weights, axis=1)
    index = (cumulative <= unit[:, None]).sum(axis=1, dtype=jnp.int32)
    index = jnp.minimum(index, weights.shape[1] - 1)
    before = jnp.where(cumulative <= unit[:, None], cumulative, 0).max(axis=1)
    return index, unit - before


def rows_block(blocks: jax.Array, index: jax.Array) -> jax.Array:
    """Takes block `index[r]` of row r: [R, N, BLOCK], int32 [R] -> [R, BLOCK]."""
    return jax.vmap(lambda row, i: jax.lax.dynamic_index_in_dim(row, i, keepdims=False))(
        blocks, index
    )


def draw(mass: jax.Array, uniforms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one position per row with probability proportional to `mass`.

    Args:
        mass: f32 [R, N, BLOCK], >= 0; positions in row-major order are the order of the bins.
        uniforms: f32 [R] in [0, 1).

    Returns:
        (slot int32 [R], place int32 [R]): the block and the position in it. Position (0, 0) if
        the row has no mass. Probabilities are met to about 1e-7, the step of a float32 uniform.
    """
    block_weights = integer_weights(mass.sum(axis=2))
    unit = unit_of(uniforms, block_weights.sum(axis=1))
    slot, inside = bin_of_unit(block_weights, unit)
    weights = integer_weights(rows_block(mass, slot))
    # What is left of the uniform, spread over the block's own units.
    width = jnp.maximum(rows_block(block_weights[:, :, None], slot)[:, 0], 1)
    rest = (inside.astype(jnp.float32) + jnp.float32(0.5)) / width.astype(jnp.float32)
    place, _ = bin_of_unit(weights, unit_of(rest, weights.sum(axis=1)))
    return slot, place
