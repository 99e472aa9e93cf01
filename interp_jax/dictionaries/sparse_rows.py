"""Sums over the pairs of a sparse code, one after another: the quick way on a CPU.

A gather writes the rows of a dictionary to memory before it multiplies them. A loop that reads
each row where it lies, several in one step, is bound by reading them once, and does no work for
padding. Under `vmap` the loops run one after another: a batched loop would copy its tables.

Pairs lie in lists [N], those of row b from `starts[b]` on, `counts[b]` of them; rows come in order.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

_AT_ONCE = 8
"""Pairs in one step of a loop: enough to hide its cost, few enough to stay in registers."""


class Lists(NamedTuple):
    """Which pairs there are.

    Attributes:
        latents: int32 [N].
        starts: int32 [B], ascending.
        counts: int32 [B].
    """

    latents: jax.Array
    starts: jax.Array
    counts: jax.Array


def lists_of_rows(latents: jax.Array, counts: jax.Array) -> Lists:
    """Of latents [B, C], of which the first `counts` of each row count."""
    rows, capacity = latents.shape
    return Lists(latents.reshape(-1), capacity * jnp.arange(rows, dtype=jnp.int32), counts)


def sequential(function):
    """`function`, of which `vmap` makes a loop."""
    return jax.custom_batching.sequential_vmap(function)


def _padded(array: jax.Array) -> jax.Array:
    """[N], so that a whole step can be read from any place of it."""
    return jnp.pad(array, (0, _AT_ONCE))


def _steps(count: jax.Array) -> jax.Array:
    return (count + _AT_ONCE - 1) // _AT_ONCE


def _few(array: jax.Array, start: jax.Array, step: jax.Array, count: jax.Array) -> list[jax.Array]:
    """The numbers of one step of a row; 0 past its end."""
    done = step * _AT_ONCE
    few = jax.lax.dynamic_slice(array, (start + done,), (_AT_ONCE,))
    few = jnp.where(done + jnp.arange(_AT_ONCE) < count, few, jnp.zeros_like(few))
    return [few[n] for n in range(_AT_ONCE)]


def _row(table: jax.Array, index: jax.Array) -> jax.Array:
    """float32 [1, D]."""
    return jax.lax.dynamic_slice(table, (index, 0), (1, table.shape[1])).astype(jnp.float32)


@sequential
def weighted_rows(values: jax.Array, lists: Lists, table: jax.Array) -> jax.Array:
    """[N], [F, D] -> float32 [B, D], the sum over a row's pairs of value times latent's row."""
    values, latents = _padded(values), _padded(lists.latents)

    def one(of):
        start, count = of

        def add(step, total):
            few = partial(_few, start=start, step=step, count=count)
            for value, latent in zip(few(values), few(latents), strict=True):
                total = total + value * _row(table, latent)[0]
            return total

        return jax.lax.fori_loop(0, _steps(count), add, jnp.zeros(table.shape[1], jnp.float32))

    return jax.lax.map(one, (lists.starts, lists.counts))


@sequential
def add_rows(values: jax.Array, lists: Lists, x: jax.Array, table: jax.Array) -> jax.Array:
    """float32 [F, D]: `table` with value times x added to the latent's row, over all pairs.

    Args:
        values: [N].
        lists: of B rows.
        x: [B, D].
        table: float32 [F, D].
    """
    values, latents = _padded(values), _padded(lists.latents)

    def one(table, of):
        start, count, row = of
        row = row.astype(jnp.float32)[None]

        def add(step, table):
            few = partial(_few, start=start, step=step, count=count)
            for value, latent in zip(few(values), few(latents), strict=True):
                sum_ = _row(table, latent) + value * row
                table = jax.lax.dynamic_update_slice(table, sum_, (latent, 0))
            return table

        return jax.lax.fori_loop(0, _steps(count), add, table), None

    return jax.lax.scan(one, table, (lists.starts, lists.counts, x))[0]


@sequential
def row_products(
    values: jax.Array, lists: Lists, tables: jax.Array, targets: jax.Array
) -> jax.Array:
    """Inner products of latents' rows with the targets of a row, where a pair's value is not 0.

    Args:
        values: [N].
        lists: of B rows.
        tables: [W, F, D].
        targets: [B, Y, D].

    Returns:
        float32 [N, W, Y]; 0 where the value is 0.
    """
    ways, width = tables.shape[0], tables.shape[2]
    latents = _padded(lists.latents)
    take = partial(jax.lax.dynamic_slice, tables, slice_sizes=(ways, 1, width))

    def one(products, of):
        start, count, target = of
        target = target.astype(jnp.float32)

        def multiply(step, products):
            rows = [take((0, latent, 0))[:, 0] for latent in _few(latents, start, step, count)]
            rows = jnp.concatenate(rows).astype(jnp.float32)
            found = jnp.dot(rows, target.T, precision=jax.lax.Precision.HIGHEST)
            found = found.reshape(_AT_ONCE, *products.shape[1:])
            # What is written past the row's end is written over by the next one.
            place = start + step * _AT_ONCE
            return jax.lax.dynamic_update_slice(products, found, (place, 0, 0))

        return jax.lax.fori_loop(0, _steps(count), multiply, products), None

    empty = jnp.zeros((latents.shape[0], ways, targets.shape[1]), jnp.float32)
    found = jax.lax.scan(one, empty, (lists.starts, lists.counts, targets))[0]
    return jnp.where((values != 0)[:, None, None], found[: values.shape[0]], 0.0)
