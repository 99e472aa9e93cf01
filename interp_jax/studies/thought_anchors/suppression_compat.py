"""KL of truncated distributions, as the released suppression scores were made (arXiv 2506.19143).

The published code keeps at each position the smallest set of tokens whose probability reaches
0.9999 at temperature 0.6, at most 100 of them, with logits in float16. KL is taken over the
union of two such sets, a token that one side lacks getting the logit -1e9. So a token of
probability p that left the kept set adds about p * 1e9 / 0.6, and ln KL is nearly a count of
such tokens. This is for comparing with released scores; the exact KL is the measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from interp_jax.studies.thought_anchors.kl import log_divergence
from interp_jax.studies.thought_anchors.top_tokens import OfTopTokens, TopTokens

NUCLEUS = 0.9999
CAP = 100
FILLER = -1e9
_NOTHING = -1e30


@dataclass(frozen=True)
class NucleusKL(OfTopTokens):
    """D over the union of two nuclei, in nats.

    Attributes:
        cap: most tokens kept.
        probability: which the kept tokens must reach together.
        filler: logit, before the temperature, of a token that one side lacks.
    """

    cap: int = CAP
    probability: float = NUCLEUS
    filler: float = FILLER

    def finish(self, carry: TopTokens, shift, base, temperature) -> jax.Array:
        """KL [R, C]; 0 where both sides keep the same tokens with the same logits."""
        del shift, base
        share = jnp.exp(carry.log_probabilities(temperature))
        kept = jnp.cumsum(share, axis=-1) - share < jnp.asarray(self.probability, share.dtype)
        rounded = carry.logits.astype(jnp.float16).astype(carry.logits.dtype)
        one = lambda other: self._compare(
            *jax.tree.map(lambda a: a[0], (carry.ids, rounded, kept)), *other, temperature
        )
        return jax.lax.map(one, (carry.ids, rounded, kept))

    def _compare(self, ids, logits, kept, other_ids, other_logits, other_kept, temperature):
        same = ids[:, :, None] == other_ids[:, None, :]
        same &= kept[:, :, None] & other_kept[:, None, :]
        filler = jnp.asarray(self.filler, logits.dtype)
        theirs = jnp.max(jnp.where(same, other_logits[:, None, :], filler), axis=2)
        shared = jnp.any(same, axis=1)
        # The union: what the base keeps, and after it what only the other keeps.
        present = jnp.concatenate([kept, other_kept & ~shared], axis=1)
        p = jnp.concatenate([logits, jnp.full_like(other_logits, filler)], axis=1)
        q = jnp.concatenate([theirs, other_logits], axis=1)
        return log_divergence(_logs(p / temperature, present), _logs(q / temperature, present))


def _logs(scores: jax.Array, present: jax.Array) -> jax.Array:
    """Log-softmax over what is present; equal on both sides, and of weight 0, elsewhere."""
    nothing = jnp.asarray(_NOTHING, scores.dtype)
    scores = jnp.where(present, scores, nothing)
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.where(present, jnp.exp(scores - top), jnp.zeros_like(scores))
    total = jnp.log(jnp.sum(weights, axis=-1, keepdims=True))
    return jnp.where(present, scores - top - total, nothing)
