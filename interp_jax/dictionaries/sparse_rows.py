"""Sums over the pairs of a sparse code, one after another: the quick way on a CPU.

A gather writes the rows of a dictionary to memory before it multiplies them. A loop that reads
each row where it lies, several in one step, is bound by reading them once, and does no work for
padding. Under `vmap` the loops run one after another: a batched loop would copy its tables.

Pairs lie in lists [N], those of row b from `starts[b]` on, `counts[b]` of them; rows come in order.
For gradients of a table the same pairs are listed by latent (`by_latent`): each of its rows is
then written once, from rows of the batch, which are few enough to stay in the cache.
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
        index: int32 [N], the row of a table that a pair reads: its latent, or listed by latent
            its row of the batch.
        starts: int32 [B], ascending.
        counts: int32 [B].
    """

    index: jax.Array
    starts: jax.Array
    counts: jax.Array


def lists_of_rows(latents: jax.Array, counts: jax.Array) -> Lists:
    """Of latents [B, C], of which the first `counts` of each row count."""
    rows, capacity = latents.shape
    return Lists(latents.reshape(-1), capacity * jnp.arange(rows, dtype=jnp.int32), counts)


class BothWays(NamedTuple):
    """The same pairs twice.

    Attributes:
        by_row: [B] lists of latents.
        by_latent: [F] lists of rows, ascending.
        order: int32 [N]; place by latent -> place by row; N where padding, which comes last.
    """

    by_row: Lists
    by_latent: Lists
    order: jax.Array


def both_ways(lists: Lists, latents: int) -> BothWays:
    """Lists by row, and of the same pairs by latent.

    Args:
        lists: by row.
        latents: F.
    """
    size = lists.index.shape[0]
    place = jnp.arange(size, dtype=jnp.int32)
    begun = jnp.zeros(size, jnp.int32).at[lists.starts].add(1, mode="drop")
    row = jnp.cumsum(begun) - 1
    there = place < jnp.take(lists.starts + lists.counts, row)
    bits = (size - 1).bit_length()
    if latents << bits <= 2**32:
        # One number sorts four times as fast as a number and what comes with it.
        key = (lists.index.astype(jnp.uint32) << bits) | place.astype(jnp.uint32)
        key = jax.lax.sort(jnp.where(there, key, jnp.uint32(2**32 - 1)), is_stable=False)
        order = (key & jnp.uint32(2**bits - 1)).astype(jnp.int32)
    else:
        key = jnp.where(there, lists.index, latents)
        _, order = jax.lax.sort((key, place), num_keys=1, is_stable=True)
    order = jnp.where(place < jnp.sum(lists.counts), order, size)
    counts = jnp.zeros(latents, jnp.int32).at[lists.index].add(there.astype(jnp.int32))
    back = Lists(jnp.take(row, order, mode="clip"), jnp.cumsum(counts) - counts, counts)
    return BothWays(lists, back, order)


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
    """[N], [F, D] -> float32 [B, D], the sum over a list's pairs of value times the table's row."""
    values, index = _padded(values), _padded(lists.index)
    width = table.shape[1]

    def one(out, of):
        start, count, place = of

        def add(step, total):
            few = partial(_few, start=start, step=step, count=count)
            for value, at in zip(few(values), few(index), strict=True):
                total = total + value * _row(table, at)[0]
            return total

        total = jax.lax.fori_loop(0, _steps(count), add, jnp.zeros(width, jnp.float32))
        return jax.lax.dynamic_update_slice(out, total[None], (place, 0)), None

    rows = lists.starts.shape[0]
    # Every row is written. Zeros to begin with would be one constant, copied for each loop.
    begun = jnp.broadcast_to(values[0].astype(jnp.float32), (rows, width))
    places = jnp.arange(rows, dtype=jnp.int32)
    return jax.lax.scan(one, begun, (lists.starts, lists.counts, places))[0]


@sequential
def row_products(
    values: jax.Array, lists: Lists, tables: jax.Array, targets: jax.Array
) -> jax.Array:
    """Inner products of tables' rows with the targets of a list, where a pair's value is not 0.

    Args:
        values: [N].
        lists: of B rows.
        tables: [W, F, D].
        targets: [B, Y, D].

    Returns:
        float32 [N, W, Y]; 0 where the value is 0.
    """
    ways, width = tables.shape[0], tables.shape[2]
    index = _padded(lists.index)
    # Flat outside the loop: with an axis of one a compiler may choose another layout, and copy.
    targets, shape = targets.reshape(targets.shape[0], -1), targets.shape[1:]
    take = partial(jax.lax.dynamic_slice, tables, slice_sizes=(ways, 1, width))

    def one(products, of):
        start, count, target = of
        target = target.reshape(shape).astype(jnp.float32)

        def multiply(step, products):
            rows = [take((0, at, 0))[:, 0] for at in _few(index, start, step, count)]
            rows = jnp.concatenate(rows).astype(jnp.float32)
            found = jnp.dot(rows, target.T, precision=jax.lax.Precision.HIGHEST)
            found = found.reshape(_AT_ONCE, *products.shape[1:])
            # What is written past the row's end is written over by the next one.
            place = start + step * _AT_ONCE
            return jax.lax.dynamic_update_slice(products, found, (place, 0, 0))

        return jax.lax.fori_loop(0, _steps(count), multiply, products), None

    empty = jnp.zeros((index.shape[0], ways, shape[0]), jnp.float32)
    found = jax.lax.scan(one, empty, (lists.starts, lists.counts, targets))[0]
    return jnp.where((values != 0)[:, None, None], found[: values.shape[0]], 0.0)
