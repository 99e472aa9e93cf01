"""Next-token distributions compared position by position, without ever holding all logits.

Rows of streams are projected onto the vocabulary a few positions at a time; row 0 is what the
others are compared with. How two distributions are compared is a choice (`ExactKL`, or one of
the truncated forms that published numbers were made with).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from interp_jax.models.decoder import Decoder
from interp_jax.models.layers import softcap, wide

# Positions of one row whose logits exist at once, at most. Measured on a CPU with 49,152 words: at
# 64 the product runs at 0.9 of its best rate, at 8 at 0.3; beyond it the sums leave the cache. An
# accelerator reads the whole head for each part, so there are few (128,256 words: 0.3 GB).
POSITIONS = {"cpu": 64}
_POSITIONS_ELSEWHERE = 640
# exp(-d) - 1 + d = d^2 (1/2 - d/6 + d^2/24 - ...); 1e-9 of itself away from it at d = 1/2.
_SERIES = tuple((-1) ** n / math.factorial(n) for n in range(2, 10))


class Comparison(Protocol):
    """How distributions are compared; hashable, so that it decides the compiled program."""

    def summary(self, logits: jax.Array, temperature: jax.Array) -> Any:
        """What is kept of logits, float32 [C, V]."""

    def compare(self, base: Any, other: Any) -> Any:
        """Arrays float32 [C] from two summaries."""


@dataclass(frozen=True)
class ExactKL:
    """D(base || other) in nats over the whole vocabulary."""

    def summary(self, logits: jax.Array, temperature: jax.Array) -> jax.Array:
        """Log-probabilities, [C, V]."""
        # Normalised once: a second reduction over the same numbers may end in other bits.
        return jax.nn.log_softmax(logits / temperature, axis=-1)

    def compare(self, base: jax.Array, other: jax.Array) -> jax.Array:
        """KL [C], at least 0."""
        return log_divergence(base, other)


EXACT = ExactKL()


def compared_streams(
    network: Decoder, streams: Sequence[jax.Array] | jax.Array, count: jax.Array,
    temperature: jax.Array, comparison: Comparison = EXACT, begins: jax.Array | None = None,
) -> Any:
    """Compares each row with row 0, at every position.

    All rows, row 0 too, go through one loop body: where their streams have the same bits, so
    have their logits.

    Args:
        network: whose head is used.
        streams: R rows [L, D] after the final norm; L a multiple of 16.
        count: int32 []; rows after this many are not computed, and come out as 0.
        temperature: float32 [].
        begins: int32 [R], best ascending: columns before which a row is known to be row 0's, so
            that nothing need be computed and 0 comes out; None: nothing is known.

    Returns:
        What `comparison.compare` gives, with axes [R, L].
    """
    streams = jnp.stack(list(streams))
    rows, length, width = streams.shape
    most = POSITIONS.get(jax.default_backend(), _POSITIONS_ELSEWHERE)
    size = max(size for size in range(16, most + 1, 16) if length % size == 0)
    parts = streams.reshape(rows, length // size, size, width).swapaxes(0, 1)
    summary = lambda x: comparison.summary(project(network, x), temperature)
    kept = jax.eval_shape(summary, parts[0, 0])
    given = jax.eval_shape(comparison.compare, kept, kept)
    zeros = lambda shapes, *lead: jax.tree.map(
        lambda a: jnp.zeros((*lead, *a.shape), a.dtype), shapes
    )

    # Of a part's rows, how many from the first are to be computed.
    ends = size * jnp.arange(1, length // size + 1, dtype=jnp.int32)
    counts = jnp.broadcast_to(count, ends.shape)
    if begins is not None:
        places = jnp.arange(1, rows + 1, dtype=jnp.int32)
        reached = jnp.where(begins[None] < ends[:, None], places[None], 0)
        counts = jnp.minimum(counts, jnp.max(reached, axis=1))

    def one(of: tuple[jax.Array, jax.Array]) -> Any:
        part, count = of

        def row(index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            base, out = carry
            own = summary(jax.lax.dynamic_index_in_dim(part, index, 0, keepdims=False))
            base = jax.tree.map(lambda new, old: jnp.where(index == 0, new, old), own, base)
            put = lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, index, 0)
            return base, jax.tree.map(put, out, comparison.compare(base, own))

        return jax.lax.fori_loop(0, count, row, (zeros(kept), zeros(given, rows)))[1]

    whole = jax.lax.map(one, (parts, counts))
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(rows, length), whole)


def project(network: Decoder, hidden: jax.Array) -> jax.Array:
    """Logits, float32 [..., V], of streams after the final norm [..., D]."""
    tied = network.head is None
    matrix = network.embed if tied else network.head
    logits = jnp.einsum(
        "...d,vd->...v" if tied else "...d,dv->...v", hidden.astype(matrix.dtype), matrix,
        preferred_element_type=wide(matrix.dtype),
    )
    return softcap(logits, network.config.logit_softcap)


def divergence(base: jax.Array, other: jax.Array) -> jax.Array:
    """D(softmax(base) || softmax(other)) over the last axis, in nats; axes broadcast."""
    return log_divergence(
        jax.nn.log_softmax(base, axis=-1), jax.nn.log_softmax(other, axis=-1)
    )


def log_divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """D(p || q) over the last axis, in nats, from log-probabilities; axes broadcast.

    Summed as p (exp(-d) - 1 + d) with d = ln p - ln q: the same sum, since p and q both sum to
    one, but every term is nonnegative, and an error in a log-sum-exp counts only squared.
    Equal distributions give exactly 0.
    """
    p, d = jnp.exp(log_p), log_p - log_q
    small = jnp.abs(d) < 0.5
    near = jnp.where(small, d, jnp.zeros_like(d))
    series = jnp.full_like(near, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        series = series * near + jnp.asarray(coefficient, near.dtype)
    terms = jnp.where(small, p * (near * near * series), jnp.exp(log_q) - p + p * d)
    return jnp.sum(jnp.maximum(terms, 0), axis=-1)
