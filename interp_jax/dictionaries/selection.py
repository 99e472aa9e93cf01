"""Exact top-k over a whole batch without sorting it.

Floats that are not negative order like their bit patterns read as integers, so the n-th largest
is found by a search on bits: 31 passes that count, or 8 where fifteen counts fit one pass. Equal
values are told apart by their index (lower first), found by a second search that runs only when
there is a tie at the edge.
Counts are sums, so under `jit` the array may be sharded: devices exchange one number per pass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.compaction import at_least
from interp_jax.dictionaries.sparse_rows import sequential
from interp_jax.runtime.errors import UserError

_BEYOND = 0x7F800001  # one above the bits of +inf: no value is that large
_SAMPLE = 2**20  # entries from which the edge of a large array is guessed


class Cut(NamedTuple):
    """The edge of a selection: kept are values above `bits`, and equal ones up to `index`.

    Attributes:
        bits: int32, bit pattern of the smallest kept value; shape of the values without the axes
            that were selected over, kept as axes of size 1.
        index: int32, the last kept index among values equal to `bits`, counted over those axes.
    """

    bits: jax.Array
    index: jax.Array


def ordered_bits(values: jax.Array) -> jax.Array:
    """int32, in the order of positive float32 values; 0 where a value is not positive."""
    if values.dtype != jnp.float32:
        raise UserError(
            found=f"values of dtype {values.dtype}",
            expected="float32: ties would be an artefact of rounding",
            do="cast them before selecting",
        )
    # Whatever is not positive (NaN included) has no bits that a threshold of 1 or more keeps.
    return jax.lax.bitcast_convert_type(jnp.where(values > 0, values, 0.0), jnp.int32)


def _ways() -> int:
    """Parts that a search interval is cut into at each pass.

    Where a pass is bound by reading the values (an accelerator), fifteen counts in one pass cost
    as much as one, and 8 passes do instead of 31.
    """
    return 2 if jax.default_backend() == "cpu" else 16


def _search(low: jax.Array, high: jax.Array, holds, ways: int | None = None) -> jax.Array:
    """The largest integer in [low, high) for which `holds`; it must hold at `low`.

    Args:
        holds: a list of int32 thresholds -> a bool of their shape for each; False from some
            integer on.
        ways: see `_ways`.
    """
    ways = ways or _ways()

    def unfinished(state):
        low, high = state
        return jnp.any(high - low > 1)

    def cut(state):
        low, high = state
        left = high - low
        step = jnp.maximum(left // ways, 1)
        points = [low + jnp.minimum(step * n, left) for n in range(1, ways)]
        held = zip(points, holds(points), strict=True)
        passed = sum(((p < high) & yes).astype(jnp.int32) for p, yes in held)
        low = low + step * passed
        return low, jnp.where(passed == ways - 1, high, low + jnp.minimum(step, high - low))

    return jax.lax.while_loop(unfinished, cut, (low, high))[0]


def _totals(masks: list[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    """How many are True in each mask, over `axes`, which are kept as axes of size 1."""
    if len(masks) == 1:
        return [jnp.sum(masks[0], axis=axes, keepdims=True, dtype=jnp.int32)]
    # One reduction of several operands is one pass over what they are made of.
    ones = tuple(mask.astype(jnp.int32) for mask in masks)
    add = lambda one, other: tuple(a + b for a, b in zip(one, other, strict=True))
    totals = jax.lax.reduce(ones, (jnp.int32(0),) * len(ones), add, axes)
    return [jnp.expand_dims(total, axes) for total in totals]


def _cut(bits: jax.Array, index: jax.Array, size: int, count: jax.Array, axes, low=1) -> Cut:
    """`bits` and `index` have one shape; `count` broadcasts to it with `axes` reduced to 1.

    The edge is sought from `low` on: what lies below it is known not to be kept.
    """

    def total(mask):
        return _totals([mask], axes)[0]

    shape = jax.eval_shape(total, bits > 0).shape
    count = jnp.broadcast_to(jnp.asarray(count, jnp.int32), shape)
    # Bit pattern 1 is the smallest positive float: with fewer positives than asked, all are kept.
    edge = _search(
        jnp.broadcast_to(jnp.asarray(low, jnp.int32), shape),
        jnp.full(shape, _BEYOND, jnp.int32),
        lambda points: [n >= count for n in _totals([bits >= t for t in points], axes)],
    )
    above, equal = total(bits > edge), total(bits == edge)
    room = count - above
    # index[last] is the smallest for which `room` of the equal ones lie at or before it.
    at_edge = bits == edge
    before = _search(
        jnp.full(shape, -1, jnp.int32),
        # An interval of one makes no pass: the second search is paid only at a tie.
        jnp.where(equal > room, size, 0).astype(jnp.int32),
        lambda points: [
            n < room for n in _totals([at_edge & (index <= i) for i in points], axes)
        ],
    )
    last = jnp.where(equal > room, before + 1, size)
    # Nothing asked for, nothing kept.
    return Cut(jnp.where(count > 0, edge, _BEYOND), last)


def _index(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[jax.Array, int]:
    size = math.prod(shape[a] for a in axes)
    if size >= 2**31:
        raise UserError(
            found=f"a batch of {size} values to select from",
            expected="fewer than 2^31",
            do="use a smaller batch",
        )
    index, step = jnp.zeros(shape, jnp.int32), 1
    for axis in reversed(axes):
        index = index + step * jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        step *= shape[axis]
    return index, size


class _Near(NamedTuple):
    """The entries among which the edge lies, and it, where these were not too many for a row.

    Attributes:
        enough: bool [], whether all that can be kept is here; else nothing below may be used.
        columns: int32 [B, C].
        bits: int32 [B, C], 0 where padding.
        cut: with fields [1, 1].
    """

    enough: jax.Array
    columns: jax.Array
    bits: jax.Array
    cut: Cut


def _near(values: jax.Array, count: jax.Array, capacity: int) -> _Near:
    """Finds an edge below the true one in some of the rows, and searches among what it leaves."""
    rows, size = values.shape
    bits, apart = ordered_bits(values), max(rows * size // _SAMPLE, 1)
    some = bits[::apart]
    # A quarter more than the sample's share, for what chance does; all of it where it is all.
    wanted = count if apart == 1 else jnp.int32(32) + (
        count.astype(jnp.float32) * (1.25 * some.shape[0] / rows)
    ).astype(jnp.int32)
    low, high = jnp.ones((1, 1), jnp.int32), jnp.full((1, 1), _BEYOND, jnp.int32)
    many = lambda points: [
        n >= wanted for n in _totals([some >= point for point in points], (0, 1))
    ]
    edge = _search(low, high, many)[0, 0]
    found = at_least(bits, edge, capacity)
    # At an edge of 1 everything positive has been found.
    enough = (jnp.sum(found.counts) >= count) | (edge == 1)
    enough = enough & jnp.all(found.counts <= capacity)
    held = jnp.take_along_axis(bits, found.columns, axis=1, mode="clip")
    held = jnp.where(found.there, held, 0)
    cut = _cut(held, _place(found.columns, size), rows * size, count, (0, 1), low=edge)
    return _Near(enough, found.columns, held, cut)


def _place(column: jax.Array, size: int) -> jax.Array:
    """The index of entries [B, C] over both axes of an array [B, size]."""
    return jax.lax.broadcasted_iota(jnp.int32, column.shape, 0) * size + column


def _cut_everywhere(values: jax.Array, count: jax.Array) -> Cut:
    return _cut(ordered_bits(values), *_index(values.shape, (0, 1)), count, (0, 1))


def cut_batch(values: jax.Array, count: jax.Array, row_capacity: int | None = None) -> Cut:
    """The edge that keeps the `count` largest positive entries of the whole array.

    Args:
        values: float32 [B, F].
        count: int32 [], may be traced (k*B).
        row_capacity: with a number C, the search looks only at at most C entries of each row,
            found from a guess of the edge. Exact as well: where that was too little, the search
            is made over everything.

    Returns:
        the cut, with fields [1, 1].
    """
    values = jax.lax.stop_gradient(values)
    if row_capacity is None or row_capacity >= values.shape[1]:
        return _cut_everywhere(values, count)

    @sequential  # under `vmap`, a choice would take both ways
    def search(values: jax.Array, count: jax.Array) -> Cut:
        near = _near(values, count, row_capacity)
        everywhere = lambda values: _cut_everywhere(values, count)
        # Bits and index are made inside the branch: as operands they would be written to memory.
        return jax.lax.cond(near.enough, lambda _: near.cut, everywhere, values)

    return search(values, jnp.asarray(count, jnp.int32))


def _kept(bits: jax.Array, index: jax.Array, cut: Cut) -> jax.Array:
    edge, last = (jnp.broadcast_to(part, bits.shape) for part in cut)
    return (bits > edge) | ((bits == edge) & (index <= last))


def kept(values: jax.Array, cut: Cut, axes: tuple[int, ...] = (0, 1)) -> jax.Array:
    """Bool mask, of the shape of `values`, of what a cut keeps."""
    return _kept(ordered_bits(values), _index(values.shape, axes)[0], cut)


def top_of_batch(values: jax.Array, count: jax.Array, row_capacity: int | None = None) -> jax.Array:
    """Bool [B, F]: the `count` largest positive entries of the whole array, ties by index.

    Exactly min(count, number of positive entries) are True. The mask carries no gradient.
    """
    values = jax.lax.stop_gradient(values)
    return kept(values, cut_batch(values, count, row_capacity))


def top_of_rows(values: jax.Array, count: jax.Array) -> jax.Array:
    """Bool [B, F]: the `count` largest positive entries of each row, ties by index.

    `count` is int32, [] or [B, 1], and may be traced. The mask carries no gradient.
    """
    values = jax.lax.stop_gradient(values)
    index, size = _index(values.shape, (1,))
    return _kept(ordered_bits(values), index, _cut(ordered_bits(values), index, size, count, (1,)))


class Pairs(NamedTuple):
    """The kept (row, latent) pairs at a fixed capacity C per row.

    Attributes:
        latents: int32 [B, C].
        kept: bool [B, C]; the rest is padding.
        full_rows: int32 [], rows that had more than C and lost their smallest.
    """

    latents: jax.Array
    kept: jax.Array
    full_rows: jax.Array


def pairs_of_batch(values: jax.Array, count: jax.Array, capacity: int) -> Pairs:
    """As `top_of_batch`, as a list of at most `capacity` latents per row.

    A row that has more than `capacity` kept entries loses the smallest of them.
    """
    capacity = min(capacity, values.shape[1])

    @sequential
    def search(values: jax.Array, count: jax.Array) -> Pairs:
        near = _near(values, count, capacity)
        size = values.shape[1]

        def quickly(_):
            keep = _kept(near.bits, _place(near.columns, size), near.cut)
            return Pairs(near.columns, keep, jnp.zeros((), jnp.int32))

        def surely(values):
            cut = _cut_everywhere(values, count)
            best, column = jax.lax.top_k(values, capacity)
            many = jnp.sum(kept(values, cut), axis=1, dtype=jnp.int32) > capacity
            keep = _kept(ordered_bits(best), _place(column, size), cut)
            return Pairs(column, keep, jnp.sum(many, dtype=jnp.int32))

        return jax.lax.cond(near.enough, quickly, surely, values)

    return search(jax.lax.stop_gradient(values), jnp.asarray(count, jnp.int32))
