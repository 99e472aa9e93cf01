"""Attention behind one signature, with two paths.

*Reference*: scores and weights exist as arrays and can be read and edited.
*Fused* (`fused`; `attention_pooled` where means of the weights are read):
nothing of size T x S is ever held. Both take keys in groups (a shared prefix, a
row's own suffix) and the same visibility rule: a query sees a key iff
`lower <= key position <= upper`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from interp_jax.models.attention_pooled import pooled_attention
from interp_jax.models.batch import Batch
from interp_jax.models.cache import position_or_nowhere
from interp_jax.models.fused import fused_attention
from interp_jax.models.fused_columns import columns_fit
from interp_jax.models.layers import row_sum, softcap, wide
from interp_jax.models.suppression import Suppression
from interp_jax.models.taps import Context, Placed, Record, at_site, run_taps

# Queries x keys up to which a score matrix is no burden (64 KiB a head); measured on a CPU,
# the fused path is not faster below it.
SMALL = 128 * 128
_SPREAD = 2**21  # numbers in the keys of a layer that may be copied for each row; 8 MB in float32


@dataclasses.dataclass(frozen=True)
class KeyGroup:
    """Keys and values with the tokens behind them.

    Attributes:
        k, v: [B, S, K, head_dim], or as a cache holds them (`cached`): k [B, K, head_dim, S],
            v [B, K, S, head_dim]. The row axis is 1 when all rows share them.
        tokens: the S tokens as each row sees them, [B, S].
        cached: see k, v.
    """

    k: jax.Array
    v: jax.Array
    tokens: Batch
    cached: bool = False

    @property
    def size(self) -> int:
        """S."""
        return self.tokens.tokens.shape[1]

    @property
    def shared(self) -> bool:
        """Whether all rows have one set of keys."""
        return self.k.shape[0] == 1 and self.tokens.tokens.shape[0] > 1

    def by_token(self) -> tuple[jax.Array, jax.Array]:
        """k, v with axes B, S, K, head_dim."""
        if not self.cached:
            return self.k, self.v
        return jnp.transpose(self.k, (0, 3, 1, 2)), jnp.swapaxes(self.v, 1, 2)

    def scores(self, q: jax.Array) -> jax.Array:
        """Dot products [B, K, G, T, S] of q [B, T, K, G, head_dim], in the wide dtype."""
        q = q.astype(self.k.dtype)
        if not self.cached:
            key, k = ("skd", self.k[0]) if self.shared else ("bskd", self.k)
            return jnp.einsum(
                f"btkgd,{key}->bkgts", q, k, preferred_element_type=wide(k.dtype)
            )
        # A cache may be bfloat16, and XLA on a CPU has no batched product of those.
        q, k = q.astype(wide(q.dtype)), self.k.astype(wide(q.dtype))
        if self.shared:
            return jnp.einsum("btkgd,kds->bkgts", q, k[0])
        if q.shape[1] > 1:
            return jnp.einsum("btkgd,bkds->bkgts", q, k)
        # One query: reading the keys is all the work. As a sum along vectors over S it runs at
        # the speed of memory, as a batch of thin products 5 times slower (on a CPU).
        return jnp.sum(q[:, 0, :, :, :, None] * k[:, :, None], axis=3)[:, :, :, None]

    def mix(self, weights: jax.Array) -> jax.Array:
        """Values mixed by weights [B, K, G, T, S]: [B, T, K, G, head_dim], wide dtype."""
        weights = weights.astype(self.v.dtype)
        if not self.cached:
            key, v = ("skd", self.v[0]) if self.shared else ("bskd", self.v)
            return jnp.einsum(
                f"bkgts,{key}->btkgd", weights, v, preferred_element_type=wide(v.dtype)
            )
        weights, v = (a.astype(wide(a.dtype)) for a in (weights, self.v))
        if self.shared:
            return jnp.einsum("bkgts,ksd->btkgd", weights, v[0])
        if weights.shape[3] > 1:
            return jnp.einsum("bkgts,bksd->btkgd", weights, v)
        return jnp.sum(weights[:, :, :, 0, :, None] * v[:, :, None], axis=3)[:, None]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How scores are made: scale, soft-cap, window (None sees all)."""

    scale: float
    softcap: float | None
    window: int | None


def query_bounds(batch: Batch, window: int | None) -> tuple[jax.Array, jax.Array]:
    """(lower, upper), int32 [B, T], of the positions each query may see."""
    upper = jnp.where(batch.valid, batch.positions, jnp.int32(-1))
    if window is None:
        return jnp.zeros_like(upper), upper
    return jnp.maximum(batch.positions - jnp.int32(window - 1), jnp.int32(0)), upper


def attend(
    q: jax.Array,
    groups: tuple[KeyGroup, ...],
    batch: Batch,
    scoring: Scoring,
    taps: tuple[Placed, ...],
    context: Context,
    record: Record,
    path: str,
) -> jax.Array:
    """Mixes values for each query.

    Args:
        q: [B, T, H, head_dim], rotated, not yet scaled.
        groups: the keys, in groups that are joined by one softmax.
        batch: the queries' tokens.
        taps: all taps of the block; those at the attention sites are used.
        path: `fused`, `reference`, or `auto`: reference where scores or weights
            are read or edited (unless all that is asked can be summed by blocks of
            queries), for one query, and up to `SMALL` queries x keys.

    Returns:
        [B, T, H, head_dim] in the wide dtype; zero for a query without keys.
        Under suppression, `keyless` counts (query, head) pairs that lost all keys.
    """
    at_scores = at_site(taps, "attn_scores")
    at_weights = at_site(taps, "attn_weights")
    open_weights = any(not p.by_block for p in at_weights)
    open_weights = open_weights or any(not p.fusable for p in at_scores)
    if path == "auto":
        size = q.shape[1] * sum(group.size for group in groups)
        few = q.shape[1] == 1 or size <= SMALL
        path = "reference" if open_weights or few else "fused"
    if open_weights:
        path = "reference"
    suppressions = []
    for placed in at_scores:
        if placed.fusable:
            suppressions.append(placed.tap.suppression(placed.context(context), record))
    if path == "fused" and at_weights:
        out, seeing = _pooled(
            q, groups, batch, scoring, tuple(suppressions), at_weights, context, record
        )
    elif path == "fused":
        out, seeing = _fused(q, groups, batch, scoring, tuple(suppressions))
    else:
        out, seeing = _reference(
            q, groups, batch, scoring, tuple(suppressions), taps, context, record
        )
    if suppressions:
        lost = batch.valid[:, :, None] & ~seeing
        record.count("keyless", jnp.sum(lost, axis=(1, 2), dtype=jnp.int32))
    return out


def _reference(q, groups, batch, scoring, suppressions, taps, context, record):
    rows, queries, heads, head_dim = q.shape
    kv_heads = groups[0].k.shape[1 if groups[0].cached else 2]
    grouped = q.reshape(rows, queries, kv_heads, heads // kv_heads, head_dim)
    lower, upper = query_bounds(batch, scoring.window)
    scores, visible = [], []
    for group in groups:
        s = group.scores(grouped)
        scores.append(s.reshape(rows, heads, queries, -1))
        at = position_or_nowhere(group.tokens)[:, None, :]
        visible.append((lower[:, :, None] <= at) & (at <= upper[:, :, None]))
    s = jnp.concatenate(scores, axis=-1) if len(scores) > 1 else scores[0]
    see = jnp.concatenate(visible, axis=-1) if len(visible) > 1 else visible[0]
    see4 = see[:, None]
    s = softcap(s * jnp.asarray(scoring.scale, s.dtype), scoring.softcap)
    for suppression in suppressions:
        s = s + bias(suppression, s.dtype)
    here = dataclasses.replace(context, visible=see)
    edits = tuple(p for p in taps if not p.fusable)
    if at_site(edits, "attn_scores"):
        s = run_taps(edits, "attn_scores", jnp.where(see4, s, jnp.zeros_like(s)), here, record)
    weights = masked_softmax(s, see4)
    seeing = jnp.any(weights > 0, axis=-1).swapaxes(1, 2)
    weights = run_taps(taps, "attn_weights", weights, here, record)
    out, start = None, 0
    for group in groups:
        part = jax.lax.slice_in_dim(weights, start, start + group.size, axis=3)
        start += group.size
        part = part.reshape(rows, kv_heads, heads // kv_heads, queries, group.size)
        mixed = group.mix(part)
        out = mixed if out is None else out + mixed
    return out.reshape(rows, queries, heads, head_dim), seeing


def bias(suppression: Suppression, dtype) -> jax.Array:
    """[B, H, T, S]; what a suppression adds to the scores."""
    chosen = suppression.queries[:, None, :] & suppression.heads[None, :, None]
    keep = suppression.log_keep.astype(dtype)[:, None, None, :]
    return jnp.where(chosen[..., None], keep, jnp.zeros((), dtype))


def masked_softmax(scores: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax over the last axis of what is visible; zero for a query that sees nothing."""
    lowest = jnp.asarray(-jnp.inf, scores.dtype)
    scores = jnp.where(visible, scores, lowest)
    top = jnp.max(scores, axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(top == lowest, jnp.zeros_like(top), top))
    weights = jnp.exp(scores - top)
    total = row_sum(weights)[..., None]
    return weights / jnp.where(total == 0, jnp.ones_like(total), total)


def _fused(q, groups, batch, scoring, suppressions):
    lower, upper = query_bounds(batch, scoring.window)
    # Behind a narrow window most keys that stand before a query are not seen either.
    narrow = scoring.window is not None and 2 * scoring.window < q.shape[1]
    if not narrow and _continues(q, groups, batch):
        k, v = _joined(groups, q.shape[0])
        positions = jnp.concatenate([position_or_nowhere(g.tokens) for g in groups], axis=1)
        out, lse = fused_attention(
            q.astype(k.dtype), k, v, lower=lower, upper=upper, key_positions=positions,
            scale=scoring.scale, softcap=scoring.softcap, suppress=suppressions, extent="own",
        )
        return out, jnp.isfinite(lse)
    parts, start = [], 0
    for group in groups:
        size = group.size
        own = tuple(
            Suppression(s.queries, s.heads, s.log_keep[:, start : start + size])
            for s in suppressions
        )
        start += size
        # A batch's columns are in the order of its positions (`Batch`).
        extent = "own" if group.tokens is batch and not narrow else "blocks"
        if group.shared and group.cached and not narrow:
            extent = "all"  # a prefix, of which rows see most
        parts.append(_fused_group(q, group, lower, upper, scoring, own, extent))
    seeing = sum(jnp.isfinite(lse).astype(jnp.int32) for _, lse in parts) > 0
    return (parts[0][0] if len(parts) == 1 else merge(parts)), seeing


def _continues(q, groups: tuple[KeyGroup, ...], batch: Batch) -> bool:
    """Whether rows that go on from a prefix had better see it as earlier columns of their own.

    Then their sums are those of a row that was run from its start, to the bit. Only where the
    quicker way of `fused_columns` takes all keys at once, and spreading them costs little.
    """
    if len(groups) != 2 or not groups[0].cached or groups[1].tokens is not batch:
        return False
    rows, (_, own, heads, width) = q.shape[0], groups[1].k.shape
    size = groups[0].size + own
    return rows * size * heads * width <= _SPREAD and columns_fit(
        q, jax.ShapeDtypeStruct((rows, size, heads, width), groups[1].k.dtype)
    )


def _fused_group(q, group, lower, upper, scoring, suppressions, extent):
    rows, (k, v) = q.shape[0], group.by_token()
    positions = position_or_nowhere(group.tokens)
    options = {"scale": scoring.scale, "softcap": scoring.softcap}
    q = q.astype(k.dtype)
    if k.shape[0] == rows or suppressions:
        if k.shape[0] != rows:
            # What is suppressed differs by row, so this layer's keys are spread for a moment.
            k, v = (jnp.broadcast_to(a, (rows, *a.shape[1:])) for a in (k, v))
        bounds = {"lower": lower, "upper": upper, "key_positions": positions}
        return fused_attention(
            q, k, v, **bounds, **options, suppress=suppressions, extent=extent
        )
    # A shared prefix: all rows' queries as one row, each with its own last visible position.
    cut = jnp.sum(group.tokens.valid, axis=1, dtype=jnp.int32)[:, None]
    fold = lambda a: a.reshape(1, -1, *a.shape[2:])
    out, lse = fused_attention(
        fold(q), k, v, lower=fold(lower), upper=fold(jnp.minimum(upper, cut - 1)),
        key_positions=jnp.arange(k.shape[1], dtype=jnp.int32)[None], extent=extent, **options,
    )
    return out.reshape(*q.shape[:2], *out.shape[2:]), lse.reshape(q.shape[:3])


def _pooled(q, groups, batch, scoring, suppressions, at_weights, context, record):
    lower, upper = query_bounds(batch, scoring.window)
    k, v = _joined(groups, q.shape[0])
    positions = [position_or_nowhere(group.tokens) for group in groups]
    out, seeing, sums = pooled_attention(
        q, k, v, lower=lower, upper=upper,
        key_positions=jnp.concatenate(positions, axis=1) if len(positions) > 1 else positions[0],
        scale=scoring.scale, softcap=scoring.softcap, suppress=suppressions,
        pools=[placed.tap.pooling(placed.context(context)) for placed in at_weights],
    )
    for placed, value in zip(at_weights, sums, strict=True):
        placed.tap.pooled(value, placed.context(context), record)
    return out, seeing


def _joined(groups: tuple[KeyGroup, ...], rows: int) -> tuple[jax.Array, jax.Array]:
    """Keys and values of all groups as one, [B, S, K, head_dim]."""
    pairs = [group.by_token() for group in groups]
    if len(pairs) == 1 and pairs[0][0].shape[0] == rows:
        return pairs[0]
    dtype = max((k.dtype for k, _ in pairs), key=lambda dtype: dtype.itemsize)
    spread = lambda a: jnp.broadcast_to(a.astype(dtype), (rows, *a.shape[1:]))
    keys, values = zip(*pairs, strict=True)
    return tuple(jnp.concatenate([spread(a) for a in part], axis=1) for part in (keys, values))


def merge(parts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """One softmax over several groups from each group's (out, log-sum-exp)."""
    lse = jnp.stack([part[1] for part in parts])
    top = jnp.max(lse, axis=0)
    top = jax.lax.stop_gradient(jnp.where(jnp.isinf(top), jnp.zeros_like(top), top))
    shares = jnp.exp(lse - top[None])
    total = jnp.sum(shares, axis=0)
    shares = shares / jnp.where(total == 0, jnp.ones_like(total), total)[None]
    return sum(part[0] * share[..., None] for part, share in zip(parts, shares, strict=True))
