"""The attention-suppression matrix (arXiv 2506.19143): hide a sentence, see what changes.

For a source sentence, attention to its tokens is taken away in all layers and heads and from all
queries. At every later position the next-token distribution at temperature 0.6 is compared with
the baseline's by the exact KL over the whole vocabulary. Several sources are rows of one batch,
and the baseline is one more row of it: it goes through the same program, so a position that
cannot see the source has the very same bits and a KL of exactly zero. Logits exist for a few
positions at a time, and what leaves the device is one number for each pair of sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.run import require_touched
from interp_jax.interventions.verbs import read, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.layers import softcap, wide
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.trace_batch import trace_batch

TEMPERATURE = 0.6
EPSILON = 1e-9
FLOOR = float(np.log(EPSILON))
"""ln(EPSILON) = -20.7233: the cell of a source that changes nothing."""

SOURCES_AT_ONCE = 8
_POSITIONS = 8  # whose logits exist at once; every length bucket is a multiple


@dataclass(frozen=True)
class Suppression:
    """What hiding each sentence does.

    Attributes:
        effects: E, float64 [S, S], target by source: mean over the target's tokens of
            ln(KL + 1e-9), KL in nats. Cells of targets before the source are `FLOOR`.
        keyless: int [S]; (query, head) pairs, summed over layers, that lost every key they had.
    """

    effects: np.ndarray
    keyless: np.ndarray


def suppression_effects(
    network: Decoder, trace: Trace, *, temperature: float = TEMPERATURE,
    at_once: int = SOURCES_AT_ONCE, on_progress: Callable[[int], None] | None = None,
) -> Suppression:
    """E of a trace, with every sentence as the source once; one compilation for all of them.

    Args:
        at_once: sources in a batch, besides the baseline.
        on_progress: called after each batch with the number of sources it did.

    Raises:
        UserError: a trace longer than the context, or a sentence that no token looks at.
    """
    spans = trace.spans
    count = len(spans)
    rows = min(at_once, count)
    batch = trace_batch(trace, network.config, rows + 1)
    columns, keyless = [], []
    for start in range(0, count, rows):
        part = spans[start : start + rows]
        # Row 0 hides nothing; so do rows that are left over at the end.
        hidden = np.zeros((rows + 1, 1, 2), np.int32)
        hidden[1 : 1 + len(part), 0] = part
        means, counts = hidden_effects(
            network, batch, hidden, spans, jnp.float32(temperature)
        )
        means, counts = jax.device_get((means, counts))
        own = slice(1, 1 + len(part))
        for row in range(*own.indices(rows + 1)):
            require_touched({"touched/suppression": counts["touched/suppression"][row]})
        columns.append(means[own])
        keyless.append(counts["keyless"][own])
        if on_progress is not None:
            on_progress(len(part))
    effects = np.concatenate(columns).T.astype(np.float64)
    return Suppression(effects, np.concatenate(keyless))


@jax.jit
def hidden_effects(
    network: Decoder, batch: Batch, hidden: jax.Array, spans: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Effects of hiding spans from attention, row by row, against row 0.

    Args:
        batch: the same trace in each of B rows, [B, T].
        hidden: int32 [B, N, 2]; own positions hidden in each row, empty spans hide nothing.
        spans: int32 [S, 2]; the sentences.
        temperature: [].

    Returns:
        float32 [B, S], mean over each sentence's tokens of ln(KL + 1e-9); and counts [B].
    """
    hide = suppress_attention(Where(spans=hidden), name="suppression")
    look = read("final_norm", name="last stream")
    _, tape = look(hide(network))(batch, logits_at="none")
    kl = streamed_kl(partial(project, network), tape["last stream"], temperature)
    # Counted from the floor, so that the mean of floors is the floor, to the bit.
    above = jnp.log(kl + jnp.float32(EPSILON)) - jnp.log(jnp.float32(EPSILON))
    at = jnp.arange(batch.tokens.shape[1], dtype=jnp.int32)[None, :]
    inside = (spans[:, :1] <= at) & (at < spans[:, 1:])
    total = jnp.einsum("bt,st->bs", above, inside.astype(jnp.float32))
    tokens = jnp.maximum(jnp.sum(inside, axis=1, dtype=jnp.int32), 1).astype(jnp.float32)
    counts = {name: tape[name] for name in ("touched/suppression", "keyless")}
    return total / tokens[None, :] + jnp.log(jnp.float32(EPSILON)), counts


def project(network: Decoder, hidden: jax.Array) -> jax.Array:
    """Logits, float32 [..., V], of streams after the final norm [..., D]."""
    tied = network.head is None
    matrix = network.embed if tied else network.head
    logits = jnp.einsum(
        "...d,vd->...v" if tied else "...d,dv->...v", hidden.astype(matrix.dtype), matrix,
        preferred_element_type=wide(matrix.dtype),
    )
    return softcap(logits, network.config.logit_softcap)


def streamed_kl(
    head: Callable[[jax.Array], jax.Array], hidden: jax.Array, temperature: jax.Array
) -> jax.Array:
    """KL of each row's next-token distributions from row 0's, a few positions at a time.

    Args:
        head: streams [..., D] -> logits [..., V].
        hidden: [B, T, D], T a multiple of 8.

    Returns:
        float32 [B, T], D(row 0 || row) in nats, at least 0.
    """
    rows, length, width = hidden.shape
    parts = hidden.reshape(rows, length // _POSITIONS, _POSITIONS, width).swapaxes(0, 1)

    def one(part: jax.Array) -> jax.Array:
        # Normalised once: a second reduction over the same numbers may end in other bits.
        logs = jax.nn.log_softmax(head(part) / temperature, axis=-1)
        return log_divergence(logs[:1], logs)

    return jax.lax.map(one, parts).swapaxes(0, 1).reshape(rows, length)


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
    terms = jnp.where(
        small, p * (jnp.expm1(-near) + near), jnp.exp(log_q) - p + p * d
    )
    return jnp.sum(jnp.maximum(terms, 0), axis=-1)
