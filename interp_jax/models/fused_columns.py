"""Fused attention where what a block of queries may see is known when compiling.

Either the last keys are the queries' own tokens, in the same columns and the order of their
positions, so that no query sees a later column; or most queries see most keys, as of a prefix.
Queries are cut into a few parts, each with the keys up to its own end, or with all: one product
makes the scores of a block, one softmax its weights. That takes two thirds of the time of the
loop over blocks of keys in `fused` (measured on a CPU with 9 heads and 256 to 1,100 tokens): its
products are too small for several cores, and its softmax is corrected at each block. Only on a
CPU, and while the scores of a block stay in its cache.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interp_jax.models.fused_blocks import (
    NOWHERE,
    KeyBlocks,
    QueryBlocks,
    Sizes,
    block_bias,
    block_scores,
    dtypes,
    join,
    split,
)
from interp_jax.models.in_place import in_place
from interp_jax.models.suppression import Suppression

_SCORES = 1_200_000  # of a block of queries with all keys, over heads; 4.8 MB in float32
_LONGEST = 2048  # beyond it the loop is quicker
_PARTS = 8  # more save little, and each is compiled
_BLOCKS = (64, 32)


def columns_fit(q: jax.Array, k: jax.Array) -> bool:
    """Whether this is the quicker way for q [B, T, H, hd], k [B, S, K, hd] on this backend."""
    (_, length, heads, _), context = q.shape, k.shape[1]
    fits = context <= _LONGEST and heads * _BLOCKS[-1] * context <= _SCORES
    return jax.default_backend() == "cpu" and length > _BLOCKS[0] and fits


def column_attention(
    scale: float, softcap: float | None, own: bool, q: jax.Array, k: jax.Array, v: jax.Array,
    lower: jax.Array, upper: jax.Array, key_positions: jax.Array,
    suppress: tuple[Suppression, ...],
) -> tuple[jax.Array, jax.Array]:
    """`fused_attention`; with `own`, for keys of which the last stand in the columns of their
    queries."""
    heads_of = tuple(one.heads for one in suppress)
    q = q.astype(dtypes(q, k)[1])
    rest = (
        k, v, lower, upper, key_positions,
        tuple(one.queries for one in suppress), tuple(one.log_keep for one in suppress),
    )

    def one(q, row):
        row = jax.tree.map(lambda a: a[None], row)
        k, v, lower, upper, positions, queries, log_keep = row
        given = tuple(map(Suppression, queries, heads_of, log_keep))
        out, lse = _row(scale, softcap, own, q[None], k, v, lower, upper, positions, given)
        return out[0], lse[0]

    # Row by row: the keys and scores of one row fit the cache, those of all do not.
    if q.shape[0] == 1:
        return _row(scale, softcap, own, q, k, v, lower, upper, key_positions, suppress)
    return in_place(one, q, rest)


def _row(scale, softcap, own, q, k, v, lower, upper, key_positions, suppress):
    """Of one row, q in the wide dtype; the axis B is 1."""
    narrow, wide = dtypes(q, k)
    (_, length, heads, _), context = q.shape, k.shape[1]
    bq = next((b for b in _BLOCKS if heads * b * context <= _SCORES), _BLOCKS[-1])
    blocks = -(-length // bq)
    queries = QueryBlocks(
        split(lower, bq, fill=NOWHERE), split(upper, bq, fill=-1),
        tuple(split(one.queries, bq, fill=False) for one in suppress),
        jnp.zeros((blocks, 0), jnp.int32), jnp.zeros(blocks, jnp.int32),
    )
    q_blocks = split(q, bq)
    heads_first = lambda a: jnp.swapaxes(a, 1, 2)
    k, v = heads_first(k), heads_first(v)
    parts = []
    for begin, end, seen in _parts(length, context, bq) if own else [(0, blocks, context)]:
        sizes = Sizes.of(q, k[:, :, :seen].swapaxes(1, 2))._replace(bq=bq, bk=seen)
        keys = KeyBlocks(
            k[:, :, :seen], v[:, :, :seen], key_positions[:, :seen],
            tuple(one.log_keep[:, :seen] for one in suppress),
        )
        chosen = tuple(one.heads.reshape(sizes.key_heads, sizes.group) for one in suppress)

        def one_block(q_block, query, sizes=sizes, keys=keys, chosen=chosen):
            folded = sizes.fold(sizes.heads_first(q_block.astype(narrow)))
            scores = block_scores(sizes, folded, keys.k, scale, softcap, wide)
            scores = scores + block_bias(query, keys, chosen, wide)
            # A finite floor, not -inf: (-inf) - (-inf) would be NaN for what sees nothing.
            top = jnp.maximum(scores.max(axis=-1), jnp.asarray(jnp.finfo(wide).min / 2, wide))
            weights = jnp.exp(scores - top[..., None])
            total = weights.sum(axis=-1)
            values = jnp.einsum(
                "bkqs,bksd->bkqd", sizes.fold(weights).astype(narrow), keys.v,
                preferred_element_type=wide,
            )
            seeing = total > 0
            total = jnp.where(seeing, total, jnp.ones_like(total))
            lse = jnp.where(seeing, top + jnp.log(total), jnp.full_like(top, -jnp.inf))
            out = sizes.unfold(values) / total[..., None]
            return sizes.heads_last(out), sizes.heads_last(lse[..., None])[..., 0]

        cut = lambda tree, begin=begin, end=end: jax.tree.map(lambda a: a[begin:end], tree)
        parts.append(in_place(one_block, cut(q_blocks), cut(queries)))
    whole = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
    return tuple(join(a, length) for a in whole)


def _parts(length: int, context: int, bq: int) -> list[tuple[int, int, int]]:
    """Blocks of queries [begin, end) that look at the same keys, the first `seen`.

    Keys are cut at the same columns however many of them are queries too, so that a query's
    sums are the same to the bit whether it is run with those before it or behind their cache.
    """
    before, step = context - length, bq * -(-context // (_PARTS * bq))
    parts = []
    for block in range(-(-length // bq)):
        last = before + min((block + 1) * bq, length)
        seen = min(step * -(-last // step), context)
        if parts and parts[-1][2] == seen:
            parts[-1] = (parts[-1][0], block + 1, seen)
        else:
            parts.append((block, block + 1, seen))
    return parts
