"""KL of truncated distributions, as the released suppression scores were made (arXiv 2506.19143).

The published code keeps at each position the smallest set of tokens whose probability reaches
0.9999 at temperature 0.6, at most 100 of them, with logits in float16. KL is taken over the
union of two such sets, a token that one side lacks getting the logit -1e9. So a token of
probability p that left the kept set adds about p * 1e9 / 0.6, and ln KL is nearly a count of
such tokens. This is for comparing with released scores; the exact KL is the measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.studies.thought_anchors.kl import log_divergence

NUCLEUS = 0.9999
CAP = 100
FILLER = -1e9
_NOTHING = -1e30


class KeptTokens(NamedTuple):
    """The nucleus of each position.

    Attributes:
        ids: int32 [C, K]; the K most likely tokens, the most likely first.
        logits: float32 [C, K]; rounded to float16, before the temperature.
        kept: bool [C, K]; in the nucleus.
        temperature: float32 [C].
    """

    ids: jax.Array
    logits: jax.Array
    kept: jax.Array
    temperature: jax.Array


@dataclass(frozen=True)
class NucleusKL:
    """D over the union of two nuclei, in nats.

    Attributes:
        probability: which the kept tokens must reach together.
        cap: most tokens kept.
        filler: logit, before the temperature, of a token that one side lacks.
    """

    probability: float = NUCLEUS
    cap: int = CAP
    filler: float = FILLER

    def summary(self, logits: jax.Array, temperature: jax.Array) -> KeptTokens:
        """The nucleus of logits [C, V]; a partial sort, never one of the whole vocabulary."""
        top, ids = jax.lax.top_k(logits, min(self.cap, logits.shape[-1]))
        total = jax.nn.logsumexp(logits / temperature, axis=-1, keepdims=True)
        share = jnp.exp(top / temperature - total)
        before = jnp.cumsum(share, axis=-1) - share
        kept = before < jnp.asarray(self.probability, share.dtype)
        rounded = top.astype(jnp.float16).astype(top.dtype)
        spread = jnp.broadcast_to(temperature, top.shape[:1])
        return KeptTokens(ids.astype(jnp.int32), rounded, kept, spread)

    def compare(self, base: KeptTokens, other: KeptTokens) -> jax.Array:
        """KL [C]; 0 where both sides keep the same tokens with the same logits."""
        same = base.ids[:, :, None] == other.ids[:, None, :]
        same &= base.kept[:, :, None] & other.kept[:, None, :]
        filler = jnp.asarray(self.filler, base.logits.dtype)
        theirs = jnp.max(jnp.where(same, other.logits[:, None, :], filler), axis=2)
        shared = jnp.any(same, axis=1)
        # The union: what the base keeps, and after it what only the other keeps.
        present = jnp.concatenate([base.kept, other.kept & ~shared], axis=1)
        p = jnp.concatenate([base.logits, jnp.full_like(other.logits, filler)], axis=1)
        q = jnp.concatenate([theirs, other.logits], axis=1)
        heat = base.temperature[:, None]
        return log_divergence(_logs(p / heat, present), _logs(q / heat, present))


def _logs(scores: jax.Array, present: jax.Array) -> jax.Array:
    """Log-softmax over what is present; equal on both sides, and of weight 0, elsewhere."""
    nothing = jnp.asarray(_NOTHING, scores.dtype)
    scores = jnp.where(present, scores, nothing)
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.where(present, jnp.exp(scores - top), jnp.zeros_like(scores))
    total = jnp.log(jnp.sum(weights, axis=-1, keepdims=True))
    return jnp.where(present, scores - top - total, nothing)
