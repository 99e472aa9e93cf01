"""Reading sites, reduced inside the compiled step.

A read puts one array on the tape under its name, with a leading axis over the
site's layers (sites that the network has once have none). Only what is asked
for leaves the device: the whole activation is one choice among several.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.interventions.edits import require_finite, static
from interp_jax.interventions.placing import place
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.attention_pooled import Pooling
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.taps import Context, Record, Tap, tap_class, touched
from interp_jax.runtime.errors import UserError


@struct.pytree_dataclass
class Reduction(struct.Struct):
    """What is kept of a value [B, T, ...] at the tokens of `mask` [B, T]."""

    def __call__(self, value: jax.Array, mask: jax.Array, context: Context) -> jax.Array:
        raise NotImplementedError


@struct.pytree_dataclass
class AsIs(Reduction):
    """[B, T, ...] in the caller's columns; zero at tokens not asked for."""

    def __call__(self, value, mask, context):
        kept = jnp.where(_like(mask, value), value, jnp.zeros((), value.dtype))
        return context.batch.unpack(kept)


@struct.pytree_dataclass
class Last(Reduction):
    """[B, ...]: the last token asked for; zero for a row that has none."""

    def __call__(self, value, mask, context):
        columns = jnp.arange(mask.shape[1], dtype=jnp.int32)[None, :]
        last = jnp.max(jnp.where(mask, columns, jnp.int32(-1)), axis=1)
        index = jnp.expand_dims(jnp.maximum(last, 0), tuple(range(1, value.ndim)))
        taken = jnp.take_along_axis(value, index, axis=1)[:, 0]
        return jnp.where(_like(last >= 0, taken), taken, jnp.zeros((), value.dtype))


@struct.pytree_dataclass
class Mean(Reduction):
    """[B, ...]: mean over the tokens asked for; zero where there are none."""

    def __call__(self, value, mask, context):
        weights = mask.astype(value.dtype)
        total = jnp.sum(value * _like(weights, value), axis=1)
        count = jnp.maximum(jnp.sum(weights, axis=1), jnp.ones((), value.dtype))
        return total / _like(count, total)


@struct.pytree_dataclass
class SpanMeans(Reduction):
    """Means over spans of tokens.

    [B, S, ...] for [B, T, ...]. At `attn_scores` and `attn_weights`, [B, H, S, S]:
    the mean over the block of query tokens of one span and key tokens of the
    other (the sentence matrix of Thought Anchors, spec 8.1). An empty span
    gives 0. At `attn_weights` no matrix of tokens is held for it, if nothing
    else is asked of the layer's weights and scores.

    Attributes:
        spans: int [S, 2] or [B, S, 2], half-open, in own positions.
    """

    spans: jax.Array

    def __call__(self, value, mask, context):
        rows = span_weights(self.spans, context.batch, value.dtype)
        rows = rows * mask.astype(value.dtype)[:, None, :]
        if context.visible is not None:
            columns = span_weights(self.spans, context.keys, value.dtype)
            half = jnp.einsum("bhts,bit->bhis", value, rows)
            return jnp.einsum("bhis,bjs->bhij", half, columns)
        return jnp.einsum("bit,bt...->bi...", rows, value)

    def pooling(self, mask: jax.Array, context: Context) -> Pooling:
        """The sums behind it at `attn_weights`, where weights come a block at a time."""
        rows = span_members(self.spans, context.batch) & mask[:, None, :]
        return Pooling(rows, span_members(self.spans, context.keys))

    def from_sums(self, sums: jax.Array, context: Context) -> jax.Array:
        """The means [B, H, S, S] from those sums."""
        rows, columns = (
            span_counts(span_members(self.spans, tokens), sums.dtype)
            for tokens in (context.batch, context.keys)
        )
        return sums / (rows[:, None, :, None] * columns[:, None, None, :])


def span_members(spans, tokens: Batch) -> jax.Array:
    """bool [B, S, T]: which tokens belong to each span."""
    spans = jnp.asarray(spans).astype(jnp.int32)
    spans = spans[None] if spans.ndim == 2 else spans
    at = tokens.positions[:, None, :]
    return (spans[:, :, :1] <= at) & (at < spans[:, :, 1:]) & tokens.valid[:, None, :]


def span_counts(members: jax.Array, dtype) -> jax.Array:
    """[B, S]: how many tokens each span has; 1 for an empty one."""
    counts = jnp.sum(members, axis=-1, dtype=jnp.int32)
    return jnp.maximum(counts, jnp.int32(1)).astype(dtype)


def span_weights(spans, tokens: Batch, dtype) -> jax.Array:
    """[B, S, T]: 1 / length at the tokens of each span, 0 elsewhere."""
    members = span_members(spans, tokens)
    return members.astype(dtype) / span_counts(members, dtype)[..., None]


@struct.pytree_dataclass
class Norm(Reduction):
    """[B, T, ...] without the last axis: the Euclidean norm at each token."""

    def __call__(self, value, mask, context):
        square = jnp.sum(value * value, axis=-1)
        # A padded token's attention output is 0, where the root has no gradient.
        some = square > 0
        root = jnp.sqrt(jnp.where(some, square, jnp.ones_like(square)))
        norm = jnp.where(some, root, jnp.zeros_like(root))
        return AsIs()(norm, mask, context)


@struct.pytree_dataclass
class Projection(Reduction):
    """[B, T, N]: dot products with the rows of `directions` [N, D], not normalised."""

    directions: jax.Array

    def __post_init__(self):
        require_finite("a projection", directions=self.directions)

    def __call__(self, value, mask, context):
        directions = jnp.asarray(self.directions).astype(value.dtype)
        return AsIs()(jnp.einsum("bt...d,nd->bt...n", value, directions), mask, context)


@struct.pytree_dataclass
class TopK(Reduction):
    """[B, T, ..., 2, k]: the k largest entries of the last axis, and their indices.

    The values stand in `[..., 0, :]`, the indices (exact below 2^24) in
    `[..., 1, :]`, in the value's dtype.
    """

    k: int = static()

    def __call__(self, value, mask, context):
        top, index = jax.lax.top_k(value, self.k)
        return AsIs()(jnp.stack([top, index.astype(value.dtype)], axis=-2), mask, context)


@tap_class
class Read(Tap):
    """Puts a site's value on the tape, reduced.

    Attributes:
        where: which tokens (queries, at the attention sites).
        reduce: what is kept of them.
    """

    where: Where = EVERYWHERE
    reduce: Reduction = AsIs()

    def __call__(self, network: Decoder) -> Decoder:
        """Places the read; see `place` for what it raises."""
        return place(network, self)

    @property
    def by_block(self) -> bool:
        return self.site.name == "attn_weights" and isinstance(self.reduce, SpanMeans)

    def pooling(self, context: Context) -> Pooling:
        """What the attention is to sum while its weights exist."""
        return self.reduce.pooling(self.where(context.batch), context)

    def pooled(self, sums: jax.Array, context: Context, record: Record) -> None:
        """Reads the sums [B, H, S, S]: the same entries as a visit to the weights leaves."""
        touched(self.name, self.where(context.batch), context.gate, record)
        if self.site.heads is not None:
            sums = jnp.take(sums, jnp.asarray(self.site.heads, jnp.int32), axis=1)
        record.read(self.name, context.slot, self.reduce.from_sums(sums, context))

    def visit(self, value: jax.Array, context: Context, record: Record) -> jax.Array:
        """Reads; the value goes on unchanged."""
        mask = self.where(context.batch)
        touched(self.name, mask, context.gate, record)
        seen, site = value, self.site
        if site.axes == "BHTS":
            seen = self._attention(seen, mask, context)
        elif site.heads is not None:
            seen = jnp.take(seen, jnp.asarray(site.heads, jnp.int32), axis=2)
            seen = self.reduce(seen, mask, context)
        else:
            seen = self.reduce(seen, mask, context)
        record.read(self.name, context.slot if site.layered else None, seen)
        return value

    def _attention(self, value, mask, context):
        if self.site.heads is not None:
            value = jnp.take(value, jnp.asarray(self.site.heads, jnp.int32), axis=1)
        if isinstance(self.reduce, SpanMeans):
            return self.reduce(value, mask, context)
        if not isinstance(self.reduce, AsIs):
            raise UserError(
                found=f"{type(self.reduce).__name__} at {self.site}",
                expected="AsIs or SpanMeans at the attention matrix",
                do="read head_out instead, or reduce the tape yourself",
            )
        kept = jnp.where(mask[:, None, :, None], value, jnp.zeros((), value.dtype))
        return _unpack_square(kept, context)


def _unpack_square(value: jax.Array, context: Context) -> jax.Array:
    """[B, H, T, S] in the caller's columns along T, and along S where S is T."""
    batch = context.batch
    value = batch.unpack(value, axis=2)
    return batch.unpack(value, axis=3) if value.shape[3] == batch.tokens.shape[1] else value


def _like(x: jax.Array, value: jax.Array) -> jax.Array:
    """`x` with trailing axes of 1 until it has the rank of `value`."""
    return jnp.expand_dims(x, tuple(range(x.ndim, value.ndim)))

