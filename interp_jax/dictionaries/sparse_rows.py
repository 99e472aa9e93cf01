"""Sums over the kept pairs of a sparse code, one after another: the quick way on a CPU.

A gather writes the rows of a dictionary to memory before it multiplies them. A loop that reads
each row where it lies, several in one step, is bound by reading them once, and does no work for
padding. Under `vmap` the loops run one after another: a batched loop would copy its tables.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

_AT_ONCE = 8
"""Pairs in one step of a loop: enough to hide its cost, few enough to stay in registers."""


def sequential(function):
    """`function`, of which `vmap` makes a loop."""
    return jax.custom_batching.sequential_vmap(function)


def _steps(values: jax.Array) -> jax.Array:
    """int32 [B]: steps until the last value of each row that is not 0."""
    place = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) + 1
    last = jnp.max(jnp.where(values != 0, place, 0), axis=1)
    return (last + _AT_ONCE - 1) // _AT_ONCE


def _whole(array: jax.Array) -> jax.Array:
    """[B, C], padded with zeros to whole steps."""
    return jnp.pad(array, ((0, 0), (0, -array.shape[1] % _AT_ONCE)))


def _few(array: jax.Array, step: jax.Array) -> list[jax.Array]:
    """The numbers of one step."""
    few = jax.lax.dynamic_slice(array, (step * _AT_ONCE,), (_AT_ONCE,))
    return [few[n] for n in range(_AT_ONCE)]


def _row(table: jax.Array, index: jax.Array) -> jax.Array:
    """float32 [1, D]."""
    return jax.lax.dynamic_slice(table, (index, 0), (1, table.shape[1])).astype(jnp.float32)


@sequential
def weighted_rows(values: jax.Array, latents: jax.Array, table: jax.Array) -> jax.Array:
    """[B, C], [B, C], [F, D] -> float32 [B, D], the sum over C of value times the latent's row."""

    def one(of):
        values, latents, steps = of

        def add(step, total):
            for value, latent in zip(_few(values, step), _few(latents, step), strict=True):
                total = total + value * _row(table, latent)[0]
            return total

        return jax.lax.fori_loop(0, steps, add, jnp.zeros(table.shape[1], jnp.float32))

    return jax.lax.map(one, (_whole(values), _whole(latents), _steps(values)))


@sequential
def add_rows(values: jax.Array, latents: jax.Array, x: jax.Array, table: jax.Array) -> jax.Array:
    """float32 [F, D]: `table` with value times x added to the latent's row, over all pairs.

    Args:
        values, latents: [B, C].
        x: [B, D].
        table: float32 [F, D].
    """

    def one(table, of):
        values, latents, steps, row = of
        row = row.astype(jnp.float32)[None]

        def add(step, table):
            for value, latent in zip(_few(values, step), _few(latents, step), strict=True):
                sum_ = _row(table, latent) + value * row
                table = jax.lax.dynamic_update_slice(table, sum_, (latent, 0))
            return table

        return jax.lax.fori_loop(0, steps, add, table), None

    rows = (_whole(values), _whole(latents), _steps(values), x)
    return jax.lax.scan(one, table, rows)[0]


@sequential
def row_products(
    values: jax.Array, latents: jax.Array, tables: jax.Array, targets: jax.Array
) -> jax.Array:
    """Inner products of latents' rows with the targets of a row, where its value is not 0.

    Args:
        values, latents: [B, C].
        tables: [W, F, D].
        targets: [B, Y, D].

    Returns:
        float32 [B, C, W, Y]; 0 where the value is 0.
    """
    ways, width = tables.shape[0], tables.shape[2]
    take = partial(jax.lax.dynamic_slice, tables, slice_sizes=(ways, 1, width))

    def one(of):
        latents, steps, target = of
        target = target.astype(jnp.float32)
        products = jnp.zeros((latents.shape[0], ways, target.shape[0]), jnp.float32)

        def multiply(step, products):
            rows = [take((0, latent, 0))[:, 0] for latent in _few(latents, step)]
            rows = jnp.concatenate(rows).astype(jnp.float32)
            found = jnp.dot(rows, target.T, precision=jax.lax.Precision.HIGHEST)
            found = found.reshape(_AT_ONCE, *products.shape[1:])
            return jax.lax.dynamic_update_slice(products, found, (step * _AT_ONCE, 0, 0))

        return jax.lax.fori_loop(0, steps, multiply, products)

    found = jax.lax.map(one, (_whole(latents), _steps(values), targets))
    found = found[:, : values.shape[1]]
    return jnp.where((values != 0)[..., None, None], found, 0.0)
