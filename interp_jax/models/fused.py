"""Fused attention: softmax(QK^T)V in blocks, without ever holding queries x keys.

A scan over blocks of queries, and within it a loop over only those blocks of keys that some
row may see, with an online softmax as in FlashAttention (Dao et al. 2022, algorithm 1). Which
blocks are visited follows from the positions alone, so causal attention costs half, and a
sliding window only its band. Grouped query heads share one matmul with their key head, so keys
and values are never repeated. The gradient rule, in `fused_backward`, recomputes the scores.

This one path honours ranges, soft-caps and suppression on every backend. It is plain XLA, and on
one GPU kernels of our own (`fused_kernel`): an accelerator's attention kernels take neither a
suppression per key nor a range of positions per query, so none of those is called here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from interp_jax.models.fused_backward import fused_backward
from interp_jax.models.fused_blocks import (
    Sizes,
    block_bias,
    block_scores,
    dtypes,
    join,
    make_blocks,
    split,
)
from interp_jax.models.fused_columns import column_attention, columns_fit
from interp_jax.models.fused_kernel import fits, kernel_attention
from interp_jax.models.fused_kernel_backward import kernel_backward
from interp_jax.models.in_place import in_place
from interp_jax.models.suppression import Suppression
from interp_jax.runtime.errors import UserError

Extent = Literal["blocks", "own", "all"]


def fused_attention(
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
    extent: Extent = "blocks",
) -> tuple[jax.Array, jax.Array]:
    """Attend over the keys whose position lies in each query's range.

    Key s is visible to query t of row b iff
    `lower[b, t] <= key_positions[b, s] <= upper[b, t]`. The score is `scale * q.k`, or
    `softcap * tanh(scale * q.k / softcap)`, plus each suppression's `log_keep[b, s]` for its
    queries and heads. Query head h uses key head `h // (H // K)`. Memory grows with T + S,
    never with T x S. Positions may come in any order; a block is skipped only where no row's
    range can meet it.

    Matmuls take their operands in the dtype of k and v and accumulate in at least float32,
    where the softmax is computed too. A row's bits do not depend on its neighbours, and a
    suppression whose `log_keep` is 0 gives the bits of no suppression.

    Args:
        q: [B, T, H, hd], T >= 1.
        k: [B, S, K, hd], S >= 1, H a multiple of K.
        v: [B, S, K, hd].
        lower: int32 [B, T], first visible position of each query.
        upper: int32 [B, T], last visible position; -1 for an invalid query.
        key_positions: int32 [B, S]; 2**31 - 1 for an invalid key.
        scale: factor on the dot products, usually `hd ** -0.5`.
        softcap: bound of the scores before suppression (Gemma 2); None for no bound.
        suppress: suppressions, added up where several touch one score.
        extent: what the caller knows of the ranges, by which a quicker way may be taken on a CPU
            (`fused_columns`). `own`: the last T keys are the queries' own tokens, in the same
            columns, and no range holds a key of a later column; those are not looked at. `all`:
            most queries see most keys. `blocks`: nothing.

    Returns:
        out [B, T, H, hd] and lse [B, T, H], float32 (float64 if q is float64). lse is the
        natural log of the sum of exp of the scores, by which two groups of keys merge:
        `(out1 * exp(lse1) + out2 * exp(lse2)) / (exp(lse1) + exp(lse2))`. A query that sees no
        key has lse -inf and out exactly 0. Both are differentiable (reverse mode) in q, k, v
        and each `log_keep`.

    Raises:
        UserError: operands whose shapes do not belong together, or k and v of two dtypes.
    """
    suppress = tuple(suppress)
    _check_shapes(q, k, v, lower, upper, key_positions, suppress)
    cap = None if softcap is None else float(softcap)
    if extent == "own" and q.shape[1] > k.shape[1]:
        raise UserError(
            found=f"{q.shape[1]} queries with {k.shape[1]} keys",
            expected="a key for each query, and what stands before them",
            do="give extent='own' only where the last keys are the queries' own tokens",
        )
    return _attend(float(scale), cap, extent, q, k, v, lower, upper, key_positions, suppress)


def _forward(scale, softcap, extent, q, k, v, lower, upper, key_positions, suppress):
    """The pass itself; arguments as in `fused_attention`."""
    if extent != "blocks" and columns_fit(q, k):
        return column_attention(
            scale, softcap, extent == "own", q, k, v, lower, upper, key_positions, suppress
        )
    if fits(q, k):
        return kernel_attention(
            scale, softcap, q, k, v, lower, upper, key_positions, suppress
        )
    sizes = Sizes.of(q, k)
    narrow, wide = dtypes(q, k)
    queries, keys = make_blocks(sizes, k, v, lower, upper, key_positions, suppress)
    heads = tuple(one.heads.reshape(sizes.key_heads, sizes.group) for one in suppress)

    def one_block(q_block, query):
        folded = sizes.fold(sizes.heads_first(q_block.astype(narrow)))

        def key_step(n, carry):
            top, total, acc = carry
            key = keys.at(query.order[n])
            scores = block_scores(sizes, folded, key.k, scale, softcap, wide)
            scores = scores + block_bias(query, key, heads, wide)
            new_top = jnp.maximum(top, scores.max(axis=-1))
            shrink = jnp.exp(top - new_top)
            weights = jnp.exp(scores - new_top[..., None])
            total = total * shrink + weights.sum(axis=-1)
            values = jnp.einsum(
                "bkqs,bksd->bkqd",
                sizes.fold(weights).astype(narrow),
                key.v,
                preferred_element_type=wide,
            )
            return new_top, total, acc * shrink[..., None] + sizes.unfold(values)

        # A finite floor, not -inf: (-inf) - (-inf) would be NaN for blocks a row cannot see.
        start = (
            jnp.full(sizes.rows, float(jnp.finfo(wide).min) / 2, wide),
            jnp.zeros(sizes.rows, wide),
            jnp.zeros((*sizes.rows, sizes.width), wide),
        )
        top, total, acc = jax.lax.fori_loop(0, query.count, key_step, start)
        seen = total > 0
        total = jnp.where(seen, total, jnp.ones_like(total))
        lse = jnp.where(seen, top + jnp.log(total), jnp.full_like(top, -jnp.inf))
        out = acc / total[..., None]
        return sizes.heads_last(out), sizes.heads_last(lse[..., None])[..., 0]

    out, lse = in_place(one_block, split(q.astype(wide), sizes.bq), queries)
    return join(out, sizes.length), join(lse, sizes.length)


def _forward_and_residuals(scale, softcap, extent, *operands):
    out, lse = _forward(scale, softcap, extent, *operands)
    return (out, lse), (*operands, out, lse)


def _backward(scale, softcap, extent, residuals, cotangents):
    del extent  # the blocks of the gradient are found as always
    kernel = fits(residuals[0], residuals[1])
    return (kernel_backward if kernel else fused_backward)(scale, softcap, residuals, cotangents)


_attend = jax.custom_vjp(_forward, nondiff_argnums=(0, 1, 2))
_attend.defvjp(_forward_and_residuals, _backward)


def _check_shapes(q, k, v, lower, upper, key_positions, suppress) -> None:
    """Refuse operands whose axes disagree, naming the operand."""
    if q.ndim != 4 or k.ndim != 4 or (k.shape, k.dtype) != (v.shape, v.dtype):
        raise UserError(
            found=f"q {q.shape}, k {k.dtype} {k.shape}, v {v.dtype} {v.shape}",
            expected="q [B, T, H, hd] and k, v [B, S, K, hd] of one dtype",
            do="split the heads from the width axis and cast k and v alike",
        )
    (batch, length, heads, width), (_, context, key_heads, _) = q.shape, k.shape
    if min(batch, length, context, key_heads, width) < 1:
        raise UserError(
            found=f"q {q.shape} with k {k.shape}",
            expected="at least one row, query, key, head and channel",
            do="leave empty groups of keys out of the call",
        )
    if (k.shape[0], k.shape[3]) != (batch, width) or heads % key_heads:
        raise UserError(
            found=f"q {q.shape} with k {k.shape}",
            expected="equal B and hd, and H a multiple of K",
            do="check the head counts of the config",
        )
    expected = [
        ("lower", lower, (batch, length)),
        ("upper", upper, (batch, length)),
        ("key_positions", key_positions, (batch, context)),
    ]
    for n, one in enumerate(suppress):
        expected.append((f"suppress[{n}].queries", one.queries, (batch, length)))
        expected.append((f"suppress[{n}].heads", one.heads, (heads,)))
        expected.append((f"suppress[{n}].log_keep", one.log_keep, (batch, context)))
    for name, array, shape in expected:
        if array.shape != shape:
            raise UserError(
                found=f"{name} of shape {array.shape}",
                expected=f"shape {shape}",
                do="build it for the same rows, queries, keys and heads as q and k",
            )
