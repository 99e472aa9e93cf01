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

from interp_jax.dictionaries.compaction import list_at_least
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
    """The entries among which the edge lies, and it, where there was room for them.

    Attributes:
        enough: bool [], whether all that can be kept is here; else nothing below may be used.
        places: int32 [N], over both axes; those of a row after those of the row before.
        bits: int32 [N], 0 where padding.
        cut: with fields [1].
    """

    enough: jax.Array
    places: jax.Array
    bits: jax.Array
    cut: Cut


def _near(values: jax.Array, count: jax.Array, room: int) -> _Near:
    """Finds an edge below the true one in a sample, and searches among what it leaves."""
    rows, size = values.shape
    bits, some, wanted = ordered_bits(values), ordered_bits(values), count
    if rows * size > _SAMPLE:
        # Of every row some columns, and of every column some rows: a few tokens, and a few
        # latents, may have much of what is kept.
        width = min(max(_SAMPLE // rows, 1), size)
        offsets = jnp.arange(rows, dtype=jnp.int32) * width % (size - width + 1)
        some = jax.vmap(lambda row, at: jax.lax.dynamic_slice(row, (at,), (width,)))(bits, offsets)
        # A fifth more than the sample's share, for what chance does.
        share = count.astype(jnp.float32) * (1.2 * width / size)
        wanted = jnp.int32(32) + share.astype(jnp.int32)
    low, high = jnp.ones((1, 1), jnp.int32), jnp.full((1, 1), _BEYOND, jnp.int32)
    many = lambda points: [
        n >= wanted for n in _totals([some >= point for point in points], (0, 1))
    ]
    edge = _search(low, high, many)[0, 0]
    room = min(room + room // 2 + 64, rows * size)
    found = list_at_least(bits, edge, room)
    total = jnp.sum(found.counts)
    # At an edge of 1 everything positive has been found.
    enough = ((total >= count) | (edge == 1)) & (total <= room)
    held = jnp.take(bits.reshape(-1), found.places, mode="clip")
    held = jnp.where(found.there, held, 0)
    cut = _cut(held, found.places, rows * size, count, (0,), low=edge)
    return _Near(enough, found.places, held, cut)


def _cut_everywhere(values: jax.Array, count: jax.Array) -> Cut:
    return _cut(ordered_bits(values), *_index(values.shape, (0, 1)), count, (0, 1))


def cut_batch(values: jax.Array, count: jax.Array, room: int | None = None) -> Cut:
    """The edge that keeps the `count` largest positive entries of the whole array.

    Args:
        values: float32 [B, F].
        count: int32 [], may be traced (k*B).
        room: the largest `count` that is expected. With it, the search looks only at some more
            entries than that, found by a guess of the edge. Exact as well: where these were too
            few or too many, the search is made over everything.

    Returns:
        the cut, with fields [1, 1].
    """
    values = jax.lax.stop_gradient(values)
    if room is None:
        return _cut_everywhere(values, count)

    @sequential  # under `vmap`, a choice would take both ways
    def search(values: jax.Array, count: jax.Array) -> Cut:
        near = _near(values, count, room)
        cut = jax.tree.map(lambda field: field[None], near.cut)
        everywhere = lambda values: _cut_everywhere(values, count)
        # Bits and index are made inside the branch: as operands they would be written to memory.
        return jax.lax.cond(near.enough, lambda _: cut, everywhere, values)

    return search(values, jnp.asarray(count, jnp.int32))


def _kept(bits: jax.Array, index: jax.Array, cut: Cut) -> jax.Array:
    edge, last = (jnp.broadcast_to(part, bits.shape) for part in cut)
    return (bits > edge) | ((bits == edge) & (index <= last))


def kept(values: jax.Array, cut: Cut, axes: tuple[int, ...] = (0, 1)) -> jax.Array:
    """Bool mask, of the shape of `values`, of what a cut keeps."""
    return _kept(ordered_bits(values), _index(values.shape, axes)[0], cut)


def top_of_batch(values: jax.Array, count: jax.Array, room: int | None = None) -> jax.Array:
    """Bool [B, F]: the `count` largest positive entries of the whole array, ties by index.

    Exactly min(count, number of positive entries) are True. The mask carries no gradient. `room`
    is that of `cut_batch`.
    """
    values = jax.lax.stop_gradient(values)
    return kept(values, cut_batch(values, count, room))


def top_of_rows(values: jax.Array, count: jax.Array) -> jax.Array:
    """Bool [B, F]: the `count` largest positive entries of each row, ties by index.

    `count` is int32, [] or [B, 1], and may be traced. The mask carries no gradient.
    """
    values = jax.lax.stop_gradient(values)
    index, size = _index(values.shape, (1,))
    return _kept(ordered_bits(values), index, _cut(ordered_bits(values), index, size, count, (1,)))


class Pairs(NamedTuple):
    """The kept (row, latent) pairs, those of a row after those of the row before.

    Attributes:
        places: int32 [N], row * F + latent; 0 where padding.
        there: bool [N]; padding comes last.
        counts: int32 [B], pairs of each row.
    """

    places: jax.Array
    there: jax.Array
    counts: jax.Array


def pairs_of_batch(values: jax.Array, count: jax.Array, room: int) -> Pairs:
    """As `top_of_batch`, as a list with room for N pairs, of which `count` at most are used.

    A row may have any share of them: some tokens take thousands of latents.

    Args:
        values: float32 [B, F].
        count: int32 [], may be traced; not above `room`.
        room: N.
    """
    room = min(room, values.size)

    @sequential
    def search(values: jax.Array, count: jax.Array) -> Pairs:
        near = _near(values, count, room)
        rows, size = values.shape

        def quickly(_):
            keep = _kept(near.bits, near.places, near.cut)
            number = jnp.cumsum(keep.astype(jnp.int32))
            target = jnp.where(keep, number - 1, room)
            places = jnp.zeros(room, jnp.int32).at[target].set(near.places, mode="drop")
            counts = jnp.zeros(rows, jnp.int32).at[near.places // size].add(keep.astype(jnp.int32))
            return Pairs(places, jnp.arange(room) < number[-1], counts)

        def surely(values):
            mask = kept(values, _cut_everywhere(values, count))
            return Pairs(*list_at_least(mask.astype(jnp.int32), jnp.int32(1), room))

        return jax.lax.cond(near.enough, quickly, surely, values)

    count = jnp.minimum(jnp.asarray(count, jnp.int32), room)
    return search(jax.lax.stop_gradient(values), count)
