"""Blocks of the fused attention: their sizes, which of them meet, and their scores.

Shared by the forward pass and the gradient rule, so that both compute the same scores. Within
a block the query heads of one key head are folded into the rows of one matmul:
[G x bq, hd] x [hd, bk] for each row of the batch and each key head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.models.suppression import Suppression

# Position of an invalid key, beyond every query's range.
NOWHERE = 2**31 - 1
# Scores held at once, over rows and heads (2.4 MiB in float32), and the block lengths allowed.
# Measured on a CPU: fewer cost loop overhead, more leave the cache; powers of two are fastest.
# An accelerator starts several kernels for each pair of blocks: larger there (128 MiB of scores).
_SCORES, _LONGEST = {"cpu": 600_000}, {"cpu": 256}
_SCORES_ELSEWHERE, _LONGEST_ELSEWHERE = 2**25, 1024
_SHORTEST = 64
# Block lengths are multiples of this, the widest vector register in float32.
_LANES = 16


class Sizes(NamedTuple):
    """The static sizes of one attention call; bq and bk are the block lengths."""

    batch: int
    length: int
    context: int
    key_heads: int
    group: int
    width: int
    bq: int
    bk: int

    @classmethod
    def of(cls, q: jax.Array, k: jax.Array) -> Sizes:
        """Read them off q [B, T, H, hd] and k [B, S, K, hd]."""
        (batch, length, heads, width), (_, context, key_heads, _) = q.shape, k.shape
        backend = jax.default_backend()
        scores = _SCORES.get(backend, _SCORES_ELSEWHERE)
        longest = _LONGEST.get(backend, _LONGEST_ELSEWHERE)
        side = 2 ** int(math.log2(max(1, scores // (batch * heads))) / 2)
        # At least four blocks where that is possible, so that causal attention has some to skip.
        largest_bq = max(_SHORTEST, min(longest, side, length // 4))
        largest_bk = max(_SHORTEST, min(longest, side, context // 4))
        return cls(
            batch=batch,
            length=length,
            context=context,
            key_heads=key_heads,
            group=heads // key_heads,
            width=width,
            bq=_even_block(length, largest_bq),
            bk=_even_block(context, largest_bk),
        )

    @property
    def rows(self) -> tuple[int, int, int, int]:
        """Shape of one number per query of a block: [B, K, G, bq]."""
        return self.batch, self.key_heads, self.group, self.bq

    def fold(self, x: jax.Array) -> jax.Array:
        """[B, K, G, bq, n] -> [B, K, G * bq, n], the rows of one matmul per key head."""
        return x.reshape(self.batch, self.key_heads, self.group * self.bq, x.shape[-1])

    def unfold(self, x: jax.Array) -> jax.Array:
        """[B, K, G * bq, n] -> [B, K, G, bq, n]."""
        return x.reshape(*self.rows, x.shape[-1])

    def heads_first(self, x: jax.Array) -> jax.Array:
        """[B, bq, H, n] -> [B, K, G, bq, n]."""
        split = x.reshape(self.batch, self.bq, self.key_heads, self.group, x.shape[-1])
        return split.transpose(0, 2, 3, 1, 4)

    def heads_last(self, x: jax.Array) -> jax.Array:
        """[B, K, G, bq, n] -> [B, bq, H, n]."""
        moved = x.transpose(0, 3, 1, 2, 4)
        return moved.reshape(self.batch, self.bq, self.key_heads * self.group, x.shape[-1])


class QueryBlocks(NamedTuple):
    """What a block of queries brings, stacked over blocks on the leading axis (a scan's xs)."""

    lower: jax.Array  # int32 [nq, B, bq]
    upper: jax.Array  # int32 [nq, B, bq]
    suppressed: tuple[jax.Array, ...]  # bool [nq, B, bq] for each suppression
    order: jax.Array  # int32 [nq, nk], the key blocks to visit come first
    count: jax.Array  # int32 [nq], how many of them


class KeyBlocks(NamedTuple):
    """What a block of keys brings, stacked over blocks on the leading axis."""

    k: jax.Array  # [nk, B, K, bk, hd]
    v: jax.Array  # [nk, B, K, bk, hd]
    positions: jax.Array  # int32 [nk, B, bk]
    log_keep: tuple[jax.Array, ...]  # float [nk, B, bk] for each suppression

    def at(self, index: jax.Array) -> KeyBlocks:
        """The block of that index, without the leading axis."""
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, keepdims=False), self
        )


def dtypes(q: jax.Array, k: jax.Array) -> tuple[jnp.dtype, jnp.dtype]:
    """The dtype matmuls take their operands in, and the one they accumulate in.

    The first is that of the keys and values, which are many; the second q's, at least float32.
    """
    return k.dtype, jnp.dtype(jnp.float64 if q.dtype == jnp.float64 else jnp.float32)


def make_blocks(
    sizes: Sizes,
    k: jax.Array,
    v: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    key_positions: jax.Array,
    suppress: tuple[Suppression, ...],
) -> tuple[QueryBlocks, KeyBlocks]:
    """Cut everything but q into blocks, and list for each query block what it must visit."""
    bq, bk = sizes.bq, sizes.bk
    low = split(lower, bq, fill=NOWHERE)
    high = split(upper, bq, fill=-1)
    positions = split(key_positions, bk, fill=NOWHERE)
    meets = _meetings(low, high, positions)
    queries = QueryBlocks(
        low,
        high,
        tuple(split(one.queries, bq, fill=False) for one in suppress),
        jnp.argsort(jnp.logical_not(meets), axis=-1, stable=True).astype(jnp.int32),
        meets.sum(axis=-1, dtype=jnp.int32),
    )
    keys = KeyBlocks(
        split(k, bk).transpose(0, 1, 3, 2, 4),
        split(v, bk).transpose(0, 1, 3, 2, 4),
        positions,
        tuple(split(one.log_keep, bk) for one in suppress),
    )
    return queries, keys


def split(x: jax.Array, block: int, fill: int | bool = 0) -> jax.Array:
    """[B, T, ...] -> [n, B, block, ...], padded at the end with `fill`."""
    count = -(-x.shape[1] // block)
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, count * block - x.shape[1])
    padded = jnp.pad(x, padding, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], count, block, *x.shape[2:]), 1, 0)


def join(x: jax.Array, length: int) -> jax.Array:
    """[n, B, block, ...] -> [B, length, ...], the inverse of `split`."""
    whole = jnp.moveaxis(x, 0, 1)
    return whole.reshape(whole.shape[0], -1, *whole.shape[3:])[:, :length]


def block_scores(
    sizes: Sizes, q: jax.Array, k: jax.Array, scale: float, softcap: float | None, wide: jnp.dtype
) -> jax.Array:
    """Scaled and capped scores [B, K, G, bq, bk] of folded q [B, K, G*bq, hd], k [B, K, bk, hd]."""
    raw = jnp.einsum("bkqd,bksd->bkqs", q, k, preferred_element_type=wide)
    scores = sizes.unfold(raw) * scale
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def block_bias(
    query: QueryBlocks, key: KeyBlocks, heads: tuple[jax.Array, ...], wide: jnp.dtype
) -> jax.Array:
    """What is added to the scores of a block, broadcastable to [B, K, G, bq, bk].

    The mask is an addition too, so that a suppression by 0 and none at all are the same
    operations on the same numbers, whatever a compiler contracts.
    """
    low, high = query.lower[:, :, None], query.upper[:, :, None]
    positions = key.positions[:, None, :]
    visible = jnp.logical_and(low <= positions, positions <= high)
    bias = jnp.where(visible, jnp.zeros((), wide), jnp.asarray(-jnp.inf, wide))[:, None, None]
    for suppressed, log_keep, head in zip(query.suppressed, key.log_keep, heads, strict=True):
        kept = log_keep.astype(wide)[:, None, None, None, :]
        bias = bias + jnp.where(touched(suppressed, head), kept, jnp.zeros((), wide))
    return bias


def touched(suppressed: jax.Array, heads: jax.Array) -> jax.Array:
    """bool [B, K, G, bq, 1] of queries [B, bq] and heads [K, G]."""
    return jnp.logical_and(suppressed[:, None, None, :, None], heads[None, :, :, None, None])


def _even_block(length: int, largest: int) -> int:
    """The block length that cuts `length` into the fewest blocks with the least padding."""
    count = -(-length // largest)
    return -(-length // (count * _LANES)) * _LANES


def _meetings(low: jax.Array, high: jax.Array, positions: jax.Array) -> jax.Array:
    """bool [nq, nk]: whether some row's ranges in a query block can reach a key block.

    Compares the hull of the valid queries' ranges with the hull of the valid keys' positions,
    so it never misses a visible pair, in whatever order the positions come.
    """
    asks = low <= high
    exists = positions != NOWHERE
    least = jnp.where(asks, low, NOWHERE).min(axis=-1)
    most = jnp.where(asks, high, -1).max(axis=-1)
    first = jnp.where(exists, positions, NOWHERE).min(axis=-1)
    last = jnp.where(exists, positions, -1).max(axis=-1)
    reach = jnp.logical_and(
        least[:, None, :] <= last[None, :, :], first[None, :, :] <= most[:, None, :]
    )
    return reach.any(axis=-1)
