"""Attention whose weights are summed over spans on the way, block by block.

A sum of attention weights over a span of keys is the same product as the mix of values: the span
is one more channel of the values, 1 at its keys. So blocks of queries meet blocks of keys with an
online softmax (Dao et al. 2022, algorithm 1), as in `fused`, and what is asked of the weights is
summed while they exist. Nothing of size T x S is ever held (arXiv 2506.19143, whose own code
holds all of it: `L x H x T x T`).

Plain autodiff goes through: a block of queries is recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.models.fused_blocks import (
    KeyBlocks,
    QueryBlocks,
    Sizes,
    block_bias,
    block_scores,
    dtypes,
    join,
    make_blocks,
    split,
)
from interp_jax.models.suppression import Suppression

_EXACT = jax.lax.Precision.HIGHEST


class Pooling(NamedTuple):
    """What is asked of the weights [B, H, T, S]: sums over M sets of queries x N sets of keys.

    Attributes:
        queries: bool [B, M, T].
        keys: bool [B, N, S].
    """

    queries: jax.Array
    keys: jax.Array


class _Step(NamedTuple):
    """One block of queries, stacked over blocks on the leading axis (a scan's xs)."""

    index: jax.Array  # int32 [nq]
    blocks: QueryBlocks
    pools: tuple[jax.Array, ...]  # bool [nq, B, bq, M] for each pooling


def pooled_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    lower: jax.Array,
    upper: jax.Array,
    key_positions: jax.Array,
    scale: float,
    softcap: float | None = None,
    suppress: Sequence[Suppression] = (),
    pools: Sequence[Pooling],
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Attends as `fused_attention` does (see there), and pools the weights.

    Blocks of keys that no query of a block may see are skipped, so causal attention costs half.

    Args:
        q, k, v, lower, upper, key_positions, scale, softcap, suppress: as in `fused_attention`.
        pools: what is asked of the weights.

    Returns:
        out [B, T, H, hd], seeing bool [B, T, H] (whether the query saw any key), and for each
        pooling [B, H, M, N]; float32 (float64 if q is float64), the pooled products at full
        precision on every backend.
    """
    sizes = Sizes.of(q, k)
    _, wide = dtypes(q, k)
    suppress, pools = tuple(suppress), tuple(pools)
    queries, keys = make_blocks(sizes, k, v, lower, upper, key_positions, suppress)
    members = tuple(split(pool.keys.swapaxes(1, 2), sizes.bk) for pool in pools)
    heads = tuple(one.heads.reshape(sizes.key_heads, sizes.group) for one in suppress)
    steps = _Step(
        jnp.arange(queries.count.shape[0], dtype=jnp.int32), queries,
        tuple(split(pool.queries.swapaxes(1, 2), sizes.bq) for pool in pools),
    )  # fmt: skip

    # Its weights are made again in the backward pass, else they would all be kept for it.
    @jax.checkpoint
    def one_block(q_block, step):
        top, total, mixed, shares = _over_keys(
            sizes, q_block, step.blocks, keys, members, heads, scale, softcap, wide
        )
        seen = total > 0
        total = jnp.where(seen, total, jnp.ones_like(total))[..., None]
        sums = tuple(
            jnp.einsum("bkgqn,bqm->bkgmn", share / total, pool.astype(wide), precision=_EXACT)
            for share, pool in zip(shares, step.pools, strict=True)
        )
        return sizes.heads_last(mixed / total), sums, sizes.heads_last(seen[..., None])[..., 0]

    def query_step(carry, step):
        # As in `in_place`, with sums that are carried along.
        at_work, sums = carry
        out, more, seen = one_block(at_work[step.index], step)
        sums = jax.tree.map(jnp.add, sums, more)
        return (at_work.at[step.index].set(out), sums), seen

    start = tuple(
        jnp.zeros((*sizes.rows[:3], pool.queries.shape[1], pool.keys.shape[1]), wide)
        for pool in pools
    )
    (out, sums), seen = jax.lax.scan(query_step, (split(q.astype(wide), sizes.bq), start), steps)
    by_head = [a.reshape(sizes.batch, -1, *a.shape[3:]) for a in sums]
    return join(out, sizes.length), join(seen, sizes.length), by_head


def _over_keys(
    sizes: Sizes, q, blocks: QueryBlocks, keys: KeyBlocks, members, heads, scale, softcap, wide
):
    """One block of queries over the keys it may see.

    Returns:
        The largest score and the sum of exp(score - it), [B, K, G, bq], and unnormalised sums:
        of values [B, K, G, bq, hd], and over each pooling's keys [B, K, G, bq, N].
    """
    folded = sizes.fold(sizes.heads_first(q.astype(keys.k.dtype)))

    def visit(carry, n):
        top, total, mixed, shares = carry
        index = blocks.order[n]
        key = keys.at(index)
        scores = block_scores(sizes, folded, key.k, scale, softcap, wide)
        scores = scores + block_bias(blocks, key, heads, wide)
        # The shift cancels, so no gradient flows through it.
        highest = jnp.maximum(top, jax.lax.stop_gradient(scores.max(axis=-1)))
        shrink = jnp.exp(top - highest)
        weights = jnp.exp(scores - highest[..., None])
        values = jnp.einsum(
            "bkqs,bksd->bkqd", sizes.fold(weights).astype(key.v.dtype), key.v,
            preferred_element_type=wide,
        )  # fmt: skip
        mixed = mixed * shrink[..., None] + sizes.unfold(values)
        shares = tuple(
            share * shrink[..., None] + _members(weights, jnp.take(inside, index, axis=0))
            for share, inside in zip(shares, members, strict=True)
        )
        return highest, total * shrink + weights.sum(axis=-1), mixed, shares

    def key_step(carry, n):
        met = n < blocks.count
        return jax.lax.cond(met, visit, lambda carry, _: carry, carry, n), None

    zeros = lambda channels: jnp.zeros((*sizes.rows, channels), wide)
    # A finite floor, not -inf: (-inf) - (-inf) would be NaN for blocks a row cannot see.
    start = (
        jnp.full(sizes.rows, float(jnp.finfo(wide).min) / 2, wide),
        jnp.zeros(sizes.rows, wide),
        zeros(sizes.width),
        tuple(zeros(inside.shape[-1]) for inside in members),
    )
    count = keys.k.shape[0]
    return jax.lax.scan(key_step, start, jnp.arange(count, dtype=jnp.int32))[0]


def _members(weights: jax.Array, inside: jax.Array) -> jax.Array:
    """Sums of weights [B, K, G, bq, bk] over sets of keys [B, bk, N]: [B, K, G, bq, N]."""
    inside = inside.astype(weights.dtype)
    return jnp.einsum("bkgqs,bsn->bkgqn", weights, inside, precision=_EXACT)
