"""The gradient of `fused_kernel`: two kernels that make the scores again (Dao et al. 2022, alg. 4).

One takes a block of queries over its keys and gives their gradient; the other a block of keys of
one key head over the queries of all its heads, and gives the gradients of keys, values and each
suppression's `log_keep`. Nothing is added across programs, so results do not depend on an order.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from interp_jax.models.fused_blocks import dtypes
from interp_jax.models.fused_kernel import (
    LOG2E,
    Blocks,
    block_scores,
    call,
    fill_up,
    fitted,
    in_threes,
    mask,
    padded,
    product,
    query_side_specs,
    run_of,
    visibility,
)
from interp_jax.models.suppression import Suppression


def kernel_backward(
    scale, softcap, residuals, cotangents, *, blocks: Blocks | None = None, interpret: bool = False
):
    """Arguments and results as in `fused_backward`."""
    q, k, v, lower, upper, at, suppress, out, lse = residuals
    d_out, d_lse = cotangents
    (rows, length, heads, width), (context, key_heads) = q.shape, k.shape[1:3]
    narrow, wide = dtypes(q, k)
    blocks = fitted(blocks or _backward_blocks(width, narrow), length, context)
    group = heads // key_heads
    seen = lse > -jnp.inf
    lse = jnp.where(seen, lse, jnp.zeros_like(lse))
    # Whatever arrives for a query without keys (the merge of two groups may send NaN) is dropped.
    d_out = jnp.where(seen[..., None], d_out, jnp.zeros_like(d_out))
    shift = jnp.where(seen, (d_out * out).sum(axis=-1) - d_lse, jnp.zeros_like(lse))
    operands = padded(blocks, q.astype(narrow), k, v, lower, upper, at, suppress, wide)
    d_out = fill_up(d_out.astype(narrow), blocks.queries, 0)
    per_head = [
        fill_up(a.swapaxes(1, 2).astype(wide), blocks.queries, 0, axis=2) for a in (lse, shift)
    ]
    meets, _ = visibility(*operands[3:6], blocks)
    static = dict(scale=scale, softcap=softcap, wide=wide)

    specs = query_side_specs(operands, blocks, group)
    by_head = pl.BlockSpec((None, None, blocks.queries), lambda i, h, b: (b, h, i))
    d_q = call(
        partial(_queries_kernel, bk=blocks.keys, **static), blocks, interpret,
        grid=(meets.shape[1], heads, rows),
        in_specs=[pl.BlockSpec((None, None, 2), lambda i, h, b: (b, i, 0)),
                  specs[0], by_head, by_head, *specs],
        out_specs=specs[0],
        out_shape=jax.ShapeDtypeStruct(operands[0].shape, q.dtype),
    )(jnp.stack(run_of(meets), axis=-1), d_out, *per_head, *operands)

    specs, key_spec, keep_spec = _key_side_specs(operands, blocks, group)
    whole_heads = pl.BlockSpec((None, group, meets.shape[1] * blocks.queries),
                               lambda j, h, b: (b, h, 0))
    total = operands[1].shape
    d_k, d_v, *d_keep = call(
        partial(_keys_kernel, bq=blocks.queries, group=group, **static), blocks, interpret,
        grid=(meets.shape[2], key_heads, rows),
        in_specs=[pl.BlockSpec((None, None, 2), lambda j, h, b: (b, j, 0)),
                  specs[0], whole_heads, whole_heads, *specs],
        out_specs=[key_spec, key_spec, *[keep_spec] * len(suppress)],
        out_shape=[
            jax.ShapeDtypeStruct(total, k.dtype), jax.ShapeDtypeStruct(total, v.dtype),
            *[jax.ShapeDtypeStruct((rows, key_heads, total[1]), wide)] * len(suppress),
        ],
    )(jnp.stack(run_of(meets.swapaxes(1, 2)), axis=-1), d_out, *per_head, *operands)
    d_suppress = tuple(
        Suppression(None, None, d.sum(axis=1)[:, :context].astype(one.log_keep.dtype))
        for d, one in zip(d_keep, suppress, strict=True)
    )
    d_k, d_v = d_k[:, :context], d_v[:, :context]
    return d_q[:, :length], d_k, d_v, None, None, None, d_suppress


def _weights(dot, q, k, at, lower, upper, lse, edits, scale, softcap):
    """Attention weights [bq, bk], and the tanh of the soft-cap or None."""
    scores, bent = block_scores(dot, q, k, scale, softcap)
    scores = scores + mask(lower, upper, at)
    for own, keep in edits:
        scores = scores + jnp.where(own[:, None], keep[None, :] * LOG2E, 0.0)
    return jnp.exp2(scores - lse[:, None] * LOG2E), bent


def _queries_kernel(span_ref, d_out_ref, lse_ref, shift_ref, q_ref, k_ref, v_ref, lower_ref,
                    upper_ref, at_ref, *rest, scale, softcap, bk, wide):
    """d_q of one block of queries of one head and row."""
    *suppress, d_q_ref = rest
    q, d_out, lse, shift = q_ref[...], d_out_ref[...], lse_ref[...], shift_ref[...]
    lower, upper, edits = lower_ref[...], upper_ref[...], in_threes(suppress)
    asked = [queries[...] * heads[...] != 0 for queries, heads, _ in edits]
    dot = product(q.dtype, wide)

    def step(n, d_q):
        here = pl.ds(n * bk, bk)
        k = k_ref[here, :]
        kept = [(own, keep[here]) for own, (_, _, keep) in zip(asked, edits, strict=True)]
        weights, bent = _weights(dot, q, k, at_ref[here], lower, upper, lse, kept, scale, softcap)
        d_scores = weights * (dot(d_out, v_ref[here, :], 1, 1) - shift[:, None])
        if bent is not None:
            d_scores = d_scores * (1.0 - bent * bent)
        return d_q + dot(d_scores.astype(q.dtype), k, 1, 0)

    d_q = jax.lax.fori_loop(span_ref[0], span_ref[1], step, jnp.zeros(q.shape, wide))
    d_q_ref[...] = (d_q * scale).astype(d_q_ref.dtype)


def _keys_kernel(span_ref, d_out_ref, lse_ref, shift_ref, q_ref, k_ref, v_ref, lower_ref,
                 upper_ref, at_ref, *rest, scale, softcap, bq, group, wide):
    """d_k, d_v and each d_log_keep of one block of keys of one key head and row."""
    count = (len(rest) - 2) // 4
    edits, (d_k_ref, d_v_ref, *d_keep_refs) = in_threes(rest[: 3 * count]), rest[3 * count :]
    k, v, at = k_ref[...], v_ref[...], at_ref[...]
    kept = [keep[...] for _, _, keep in edits]
    dot = product(k.dtype, wide)

    def step(item, carry):
        d_k, d_v, d_keep = carry
        n, g = item // group, item % group
        here = pl.ds(n * bq, bq)
        q, d_out = q_ref[here, g, :], d_out_ref[here, g, :]
        asked = [queries[here] * heads[g] != 0 for queries, heads, _ in edits]
        weights, bent = _weights(
            dot, q, k, at, lower_ref[here], upper_ref[here], lse_ref[g, here],
            list(zip(asked, kept, strict=True)), scale, softcap,
        )
        d_v = d_v + dot(weights.astype(k.dtype), d_out, 0, 0)
        d_scores = weights * (dot(d_out, v, 1, 1) - shift_ref[g, here][:, None])
        d_keep = tuple(
            d + jnp.sum(jnp.where(own[:, None], d_scores, 0.0), axis=0)
            for d, own in zip(d_keep, asked, strict=True)
        )
        if bent is not None:
            d_scores = d_scores * (1.0 - bent * bent)
        return d_k + dot(d_scores.astype(k.dtype), q, 0, 0), d_v, d_keep

    zeros = jnp.zeros(k.shape, wide)
    start = (zeros, zeros, tuple(jnp.zeros(k.shape[:1], wide) for _ in edits))
    first, last = span_ref[0] * group, span_ref[1] * group
    d_k, d_v, d_keep = jax.lax.fori_loop(first, last, step, start)
    d_k_ref[...] = (d_k * scale).astype(d_k_ref.dtype)
    d_v_ref[...] = d_v.astype(d_v_ref.dtype)
    for ref, value in zip(d_keep_refs, d_keep, strict=True):
        ref[...] = value


def _key_side_specs(operands, blocks: Blocks, group: int):
    """How `padded` operands are cut for the grid (key block, key head, row); d_k's and d_keep's."""
    q = operands[0]
    whole = pl.BlockSpec((None, q.shape[1]), lambda j, h, b: (b, 0))
    some = pl.BlockSpec((None, blocks.keys), lambda j, h, b: (b, j))
    queries = pl.BlockSpec((None, q.shape[1], group, q.shape[3]), lambda j, h, b: (b, 0, h, 0))
    keys = pl.BlockSpec((None, blocks.keys, None, q.shape[3]), lambda j, h, b: (b, j, h, 0))
    edit = [whole, pl.BlockSpec((group,), lambda j, h, b: (h,)), some]
    specs = [queries, keys, keys, whole, whole, some, *edit * ((len(operands) - 6) // 3)]
    return specs, keys, pl.BlockSpec((None, None, blocks.keys), lambda j, h, b: (b, h, j))


def _backward_blocks(width: int, narrow) -> Blocks:
    if narrow == jnp.float32:
        return Blocks(32, 32, 4, 2)
    return Blocks(64, 64, 4, 2) if width <= 128 else Blocks(32, 32, 4, 2)
