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

from interp_jax.runtime.errors import UserError

_BEYOND = 0x7F800001  # one above the bits of +inf: no value is that large


class Cut(NamedTuple):
    """The edge of a selection: kept are values above `bits`, and equal ones up to `index`.

    Attributes:
        bits: int32, bit pattern of the smallest kept value; shape of the values without the axes
            that were selected over, kept as axes of size 1.
        index: int32, the last kept index among values equal to `bits`, counted over those axes.
    """

    bits: jax.Array
    index: jax.Array


def _bits(values: jax.Array) -> jax.Array:
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


def _cut(bits: jax.Array, index: jax.Array, size: int, count: jax.Array, axes) -> Cut:
    """`bits` and `index` have one shape; `count` broadcasts to it with `axes` reduced to 1."""

    def total(mask):
        return _totals([mask], axes)[0]

    shape = jax.eval_shape(total, bits > 0).shape
    count = jnp.broadcast_to(jnp.asarray(count, jnp.int32), shape)
    # Bit pattern 1 is the smallest positive float: with fewer positives than asked, all are kept.
    edge = _search(
        jnp.ones(shape, jnp.int32),
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


def cut_batch(
    values: jax.Array, count: jax.Array, row_capacity: int | None = None
) -> tuple[Cut, jax.Array]:
    """The edge that keeps the `count` largest positive entries of the whole array.

    Args:
        values: float32 [B, F].
        count: int32 [], may be traced (k*B).
        row_capacity: with a number C, the search looks only at the C largest of each row, which
            is quicker on a CPU. Exact as well: when a row keeps all of its C, others may have
            been missed, and the search is made over everything.

    Returns:
        the cut, with fields [1, 1], and int32 [], how many rows kept all C (0 without C).
    """
    values = jax.lax.stop_gradient(values)

    def everywhere(values: jax.Array) -> Cut:
        return _cut(_bits(values), *_index(values.shape, (0, 1)), count, (0, 1))

    if row_capacity is None or row_capacity >= values.shape[1]:
        return everywhere(values), jnp.zeros((), jnp.int32)
    best, column = jax.lax.top_k(values, row_capacity)
    row = jax.lax.broadcasted_iota(jnp.int32, column.shape, 0)
    few, place = _bits(best), row * values.shape[1] + column
    near = _cut(few, place, math.prod(values.shape), count, (0, 1))
    full = jnp.sum(jnp.all(_kept(few, place, near), axis=1), dtype=jnp.int32)
    # Bits and index are made inside the branch: as operands they would be written to memory.
    return jax.lax.cond(full > 0, everywhere, lambda _: near, values), full


def _kept(bits: jax.Array, index: jax.Array, cut: Cut) -> jax.Array:
    edge, last = (jnp.broadcast_to(part, bits.shape) for part in cut)
    return (bits > edge) | ((bits == edge) & (index <= last))


def kept(values: jax.Array, cut: Cut, axes: tuple[int, ...] = (0, 1)) -> jax.Array:
    """Bool mask, of the shape of `values`, of what a cut keeps."""
    return _kept(_bits(values), _index(values.shape, axes)[0], cut)


def top_of_batch(values: jax.Array, count: jax.Array, row_capacity: int | None = None) -> jax.Array:
    """Bool [B, F]: the `count` largest positive entries of the whole array, ties by index.

    Exactly min(count, number of positive entries) are True. The mask carries no gradient.
    """
    values = jax.lax.stop_gradient(values)
    return kept(values, cut_batch(values, count, row_capacity)[0])


def top_of_rows(values: jax.Array, count: jax.Array) -> jax.Array:
    """Bool [B, F]: the `count` largest positive entries of each row, ties by index.

    `count` is int32, [] or [B, 1], and may be traced. The mask carries no gradient.
    """
    values = jax.lax.stop_gradient(values)
    index, size = _index(values.shape, (1,))
    return _kept(_bits(values), index, _cut(_bits(values), index, size, count, (1,)))


class Pairs(NamedTuple):
    """The kept (row, latent) pairs at a fixed capacity C per row.

    Attributes:
        latents: int32 [B, C].
        kept: bool [B, C]; the rest is padding.
        full_rows: int32 [], rows that kept all C. At 0 nothing was left out.
    """

    latents: jax.Array
    kept: jax.Array
    full_rows: jax.Array


def pairs_of_batch(values: jax.Array, count: jax.Array, capacity: int) -> Pairs:
    """As `top_of_batch`, as a list of at most `capacity` latents per row.

    A row that has more than `capacity` kept entries loses the smallest of them; `full_rows`
    tells whether that can have happened.
    """
    values = jax.lax.stop_gradient(values)
    capacity = min(capacity, values.shape[1])
    cut, full = cut_batch(values, count, capacity)
    best, column = jax.lax.top_k(values, capacity)
    row = jax.lax.broadcasted_iota(jnp.int32, column.shape, 0)
    return Pairs(column, _kept(_bits(best), row * values.shape[1] + column, cut), full)
