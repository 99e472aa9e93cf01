"""The exact KL over the whole vocabulary, summed slice by slice.

With p of row 0 known and d = ln p - ln q + c, where c is any number, D(p || q) is
ln(sum p exp(-d)) + sum p d. Were c the KL itself, d would have no mean under p, and the KL would
be ln(1 + sum p (exp(-d) - 1 + d)): no term is negative, and nothing cancels. ln q is not known
before all words are, but the mean of the difference of logits is, from the streams alone
(`comparing.Base`); what rounding leaves of the mean counts only squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.studies.thought_anchors.comparing import Base
from interp_jax.studies.thought_anchors.kl import small_differences


class Sums(NamedTuple):
    """Over the words so far, float32 [R, C].

    Attributes:
        top, total: the largest logit over temperature, and the sum of exp of these less it.
        terms: of p (exp(-d) - 1 + d).
        mean: of p d.
    """

    top: jax.Array
    total: jax.Array
    terms: jax.Array
    mean: jax.Array


@dataclass(frozen=True)
class ExactKL:
    """D(base || other) in nats over the whole vocabulary."""

    words: int = 2048
    needs_base: bool = True

    def start(self, streams: jax.Array, vocabulary: int) -> Sums:
        """No words."""
        del vocabulary
        zeros = jnp.zeros(streams.shape[:2], jnp.float32)
        return Sums(zeros - jnp.inf, zeros, zeros, zeros)

    def add(self, carry, logits, first, shift, base: Base, temperature) -> Sums:
        """See `Comparison`."""
        del first
        scores = logits / temperature
        log_p = scores[:1] - base.lse[None, :, None]
        p, d = jnp.exp(log_p), scores[:1] - scores - shift[..., None]
        top = jnp.maximum(carry.top, jnp.max(scores, axis=-1))
        weights = jnp.exp(scores - top[..., None])
        total = carry.total * jnp.exp(carry.top - top) + jnp.sum(weights, axis=-1)
        # p exp(-d), of the exponential that is there already.
        shrunk = weights * jnp.exp(top + shift - base.lse[None])[..., None]
        small, near = small_differences(p, d)
        terms = jnp.where(small, near, jnp.maximum(shrunk - p + p * d, 0))
        return Sums(
            top, total, carry.terms + jnp.sum(terms, axis=-1),
            carry.mean + jnp.sum(p * d, axis=-1),
        )

    def finish(self, carry: Sums, shift, base: Base, temperature) -> jax.Array:
        """KL [R, C], at least 0; exactly 0 where logits are equal."""
        del temperature
        raised = carry.terms - carry.mean  # sum p exp(-d) less 1
        near = carry.terms + jnp.log1p(raised) - raised
        far = carry.top + jnp.log(carry.total) + shift - base.lse[None] + carry.mean
        # Far away the terms may overflow, to infinity or NaN.
        return jnp.maximum(jnp.where(carry.terms < 1, near, far), 0)


EXACT = ExactKL()
