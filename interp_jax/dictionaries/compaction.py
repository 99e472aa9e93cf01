"""Where the large entries of an array stand, without sorting it.

Each row's entries at or above an edge are marked in words of 32 bits; counts of bits tell which
word holds the n-th of them, and halving the word tells which bit. That is one pass over the
array and little work per entry found, where `top_k` on a CPU keeps a heap.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BITS = 32


class Found(NamedTuple):
    """The entries found in each row.

    Attributes:
        columns: int32 [B, C], in a fixed order that is not that of the columns; 0 where padding.
        there: bool [B, C]; the rest is padding.
        counts: int32 [B], entries of the row, of which the first C are held.
    """

    columns: jax.Array
    there: jax.Array
    counts: jax.Array


def at_least(values: jax.Array, edge: jax.Array, capacity: int) -> Found:
    """The entries of `values` that are not below `edge`, at most `capacity` in each row.

    Args:
        values: [B, F].
        edge: [], of their dtype, above 0.
        capacity: C.
    """
    words, through = _words(values, edge)
    wanted = jax.lax.broadcasted_iota(jnp.int32, (values.shape[0], capacity), 1)
    word = _first_above(through, capacity)
    before = jnp.where(word > 0, _take(through, word - 1), 0)
    place = _nth_bit(_take(words, word), wanted - before)
    there = wanted < through[:, -1:]
    column = place * words.shape[1] + word
    return Found(jnp.where(there, column, 0), there, through[:, -1])


class Listed(NamedTuple):
    """The entries found, those of a row after those of the row before.

    Attributes:
        places: int32 [N], row * F + column; 0 where padding.
        there: bool [N]; padding comes last.
        counts: int32 [B], entries of each row; of all of them the first N are held.
    """

    places: jax.Array
    there: jax.Array
    counts: jax.Array


def list_at_least(values: jax.Array, edge: jax.Array, room: int) -> Listed:
    """As `at_least`, with room for N entries in all, however they are spread over rows."""
    rows, size = values.shape
    words, through = _words(values, edge)
    counts, width = through[:, -1], words.shape[1]
    starts = jnp.cumsum(counts) - counts
    ascending = (through + starts[:, None]).reshape(1, -1)
    word = _first_above(ascending, room)[0]
    wanted = jnp.arange(room, dtype=jnp.int32)
    before = jnp.where(word > 0, jnp.take(ascending[0], word - 1, mode="clip"), 0)
    bit = _nth_bit(jnp.take(words.reshape(-1), word, mode="clip"), wanted - before)
    there = wanted < jnp.sum(counts)
    place = word // width * size + bit * width + word % width
    return Listed(jnp.where(there, place, 0), there, counts)


def _words(values: jax.Array, edge: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint32 [B, W], marks; int32 [B, W], how many there are in a row up to and with a word.

    Bit n of word w stands for column n * W + w: all words are made side by side.
    """
    rows, size = values.shape
    width = -(-size // _BITS)
    planes = jnp.pad(values, ((0, 0), (0, width * _BITS - size))).reshape(rows, _BITS, width)
    bit = jnp.uint32(1) << jax.lax.broadcasted_iota(jnp.uint32, planes.shape, 1)
    marks = jnp.sum(jnp.where(planes >= edge, bit, jnp.uint32(0)), axis=1, dtype=jnp.uint32)
    return marks, jnp.cumsum(_ones(marks), axis=1)


def _ones(words: jax.Array) -> jax.Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(array, index, axis=1, mode="clip")


def _first_above(ascending: jax.Array, capacity: int) -> jax.Array:
    """int32 [B, C]: for n = 0..C-1, the first place of a row [B, W] whose number is above n.

    The last place where there is none.
    """
    rows, size = ascending.shape
    row = jax.lax.broadcasted_iota(jnp.int32, ascending.shape, 0)
    # How many of a row's numbers are n, summed up to n: how many are not above it.
    many = jnp.zeros((rows, capacity), jnp.int32).at[row, ascending].add(1, mode="drop")
    return jnp.minimum(jnp.cumsum(many, axis=1), size - 1)


def _nth_bit(words: jax.Array, n: jax.Array) -> jax.Array:
    """int32: the place of the n-th bit, from 0, that is set in each word."""
    place = jnp.zeros(words.shape, jnp.int32)
    for width in (16, 8, 4, 2, 1):
        low = _ones(words & jnp.uint32((1 << width) - 1))
        up = n >= low
        n = jnp.where(up, n - low, n)
        words = jnp.where(up, words >> width, words)
        place = jnp.where(up, place + width, place)
    return jnp.minimum(place, _BITS - 1)
