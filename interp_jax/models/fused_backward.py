"""The gradient rule of the fused attention: scores are recomputed block by block.

As FlashAttention's backward pass (Dao et al. 2022, algorithm 4), in the forward pass's order:
a scan over query blocks, whose gradient it returns, and a loop over the key blocks they met,
whose gradients are accumulated in place. Extended by the cotangent of the log-sum-exp and by
the gradient of each suppression's `log_keep`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interp_jax.models.fused_blocks import (
    Sizes,
    block_bias,
    block_scores,
    dtypes,
    join,
    make_blocks,
    split,
    touched,
)
from interp_jax.models.suppression import Suppression


def fused_backward(scale, softcap, residuals, cotangents):
    """Cotangents of every operand of the forward pass, None for those that carry none.

    With weights p = exp(score - lse), dp = do . v and D = sum(do * out) - dlse, the score's
    gradient is p (dp - D). A query without keys has p = 0 everywhere, and whatever arrives as
    its cotangent (the merge of two groups of keys may send NaN) is dropped.

    Args:
        scale: factor on the dot products.
        softcap: bound of the scores or None.
        residuals: the forward pass's operands, then out [B, T, H, hd] and lse [B, T, H].
        cotangents: of out and lse.
    """
    q, k, v, lower, upper, key_positions, suppress, out, lse = residuals
    d_out, d_lse = cotangents
    sizes = Sizes.of(q, k)
    narrow, wide = dtypes(q, k)
    queries, keys = make_blocks(sizes, k, v, lower, upper, key_positions, suppress)
    heads = tuple(one.heads.reshape(sizes.key_heads, sizes.group) for one in suppress)

    seen = lse > -jnp.inf
    lse = jnp.where(seen, lse, jnp.zeros_like(lse))
    d_out = jnp.where(seen[..., None], d_out, jnp.zeros_like(d_out))
    shift = jnp.where(seen, (d_out * out).sum(axis=-1) - d_lse, jnp.zeros_like(lse))
    per_query = tuple(split(x, sizes.bq) for x in (q, d_out, lse[..., None], shift[..., None]))

    def query_step(totals, item):
        (q_block, d_out_block, lse_block, shift_block), query = item
        folded = sizes.fold(sizes.heads_first(q_block.astype(narrow)))
        d_folded = sizes.fold(sizes.heads_first(d_out_block.astype(narrow)))
        lse_block, shift_block = sizes.heads_first(lse_block), sizes.heads_first(shift_block)

        def key_step(n, carry):
            d_q, d_k, d_v, d_keep = carry
            index = query.order[n]
            key = keys.at(index)
            scores = block_scores(sizes, folded, key.k, scale, softcap, wide)
            bias = block_bias(query, key, heads, wide)
            weights = jnp.exp(scores + bias - lse_block)
            d_weights = _einsum("bkqd,bksd->bkqs", d_folded, key.v, wide)
            d_scores = weights * (sizes.unfold(d_weights) - shift_block)
            d_keep = tuple(
                _add_at(total, index, _where_touched(d_scores, asked, head))
                for total, asked, head in zip(d_keep, query.suppressed, heads, strict=True)
            )
            if softcap is not None:
                d_scores = d_scores * (1.0 - jnp.square(scores / softcap))
            d_folded_scores = sizes.fold(d_scores).astype(narrow)
            folded_weights = sizes.fold(weights).astype(narrow)
            d_q = d_q + _einsum("bkqs,bksd->bkqd", d_folded_scores, key.k, wide)
            d_k = _add_at(d_k, index, _einsum("bkqs,bkqd->bksd", d_folded_scores, folded, wide))
            d_v = _add_at(d_v, index, _einsum("bkqs,bkqd->bksd", folded_weights, d_folded, wide))
            return d_q, d_k, d_v, d_keep

        start = (jnp.zeros(folded.shape, wide), *totals)
        d_q, *totals = jax.lax.fori_loop(0, query.count, key_step, start)
        return tuple(totals), sizes.heads_last(sizes.unfold(d_q * scale)).astype(q.dtype)

    totals = (
        jnp.zeros(keys.k.shape, wide),
        jnp.zeros(keys.v.shape, wide),
        tuple(jnp.zeros(one.shape, wide) for one in keys.log_keep),
    )
    (d_k, d_v, d_keep), d_q = jax.lax.scan(query_step, totals, (per_query, queries))
    d_suppress = tuple(
        Suppression(None, None, join(total, sizes.context).astype(one.log_keep.dtype))
        for total, one in zip(d_keep, suppress, strict=True)
    )
    d_k = join((d_k * scale).transpose(0, 1, 3, 2, 4), sizes.context).astype(k.dtype)
    d_v = join(d_v.transpose(0, 1, 3, 2, 4), sizes.context).astype(v.dtype)
    return join(d_q, sizes.length), d_k, d_v, None, None, None, d_suppress


def _einsum(rule: str, left: jax.Array, right: jax.Array, wide: jnp.dtype) -> jax.Array:
    return jnp.einsum(rule, left, right, preferred_element_type=wide)


def _add_at(total: jax.Array, index: jax.Array, block: jax.Array) -> jax.Array:
    """Add a block to a stack of blocks, in place within the loop."""
    old = jax.lax.dynamic_index_in_dim(total, index, 0, keepdims=False)
    return jax.lax.dynamic_update_index_in_dim(total, old + block, index, 0)


def _where_touched(d_scores: jax.Array, suppressed: jax.Array, heads: jax.Array) -> jax.Array:
    """[B, bk]: the scores' gradient [B, K, G, bq, bk] summed over suppressed queries, heads."""
    asked = touched(suppressed, heads)
    return jnp.where(asked, d_scores, jnp.zeros((), d_scores.dtype)).sum(axis=(1, 2, 3))
