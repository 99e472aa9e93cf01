"""Suppressing attention to key spans (Thought Anchors, spec 9.1), on both paths.

The score of a chosen query and head at a chosen key gets `log(1 - strength)`
added, a hard mask at 1. Keys keep their positions, tokens and streams; only
looking at them is suppressed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.edits import require_finite, row_factor
from interp_jax.interventions.placing import place
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.decoder import Decoder
from interp_jax.models.layers import wide
from interp_jax.models.suppression import Suppression
from interp_jax.models.taps import Context, Record, Tap, tap_class


@tap_class
class SuppressAttention(Tap):
    """Takes attention away from keys.

    Counted as touched: the query tokens that could see a chosen key (one at or
    before their own position), in each layer.

    Attributes:
        keys: which key tokens.
        where: which query tokens lose them; the keys' own tokens too, unless
            excluded.
        strength: [] or [B], in 0..1: the share of the weight taken away, before
            the softmax renormalises.
        layer_weights: [number of the site's layers] or None; times the strength.
    """

    keys: Where = EVERYWHERE
    where: Where = EVERYWHERE
    strength: jax.Array | float = 1.0
    layer_weights: jax.Array | None = None

    def __post_init__(self):
        require_finite(
            self.name, strength=self.strength, layer_weights=self.layer_weights
        )

    @property
    def is_suppression(self) -> bool:
        return True

    def __call__(self, network: Decoder) -> Decoder:
        """Places the suppression; see `place` for what it raises."""
        return place(network, self, self.layer_weights)

    def suppression(self, context: Context, record: Record) -> Suppression:
        """The operand of the attention paths, and the touched count."""
        batch = context.batch
        queries, keys = self.where(batch), self.keys(context.keys)
        first = jnp.min(
            jnp.where(keys, context.keys.positions, jnp.int32(2**31 - 1)), axis=1, keepdims=True
        )
        seeing = queries & (batch.positions >= first)
        rows = jnp.sum(seeing, axis=1, dtype=jnp.int32)
        record.count(f"touched/{self.name}", rows * (context.gate != 0).astype(jnp.int32))
        dtype = wide(jnp.asarray(self.strength).dtype)
        taken = row_factor(self.strength, context.gate, dtype)
        kept = log_kept(taken * keys.astype(dtype))
        heads = np.ones((context.n_heads,), bool)
        if self.site.heads is not None:
            heads = np.isin(np.arange(context.n_heads), self.site.heads)
        return Suppression(queries, jnp.asarray(heads), kept)


def log_kept(taken: jax.Array) -> jax.Array:
    """log(1 - taken); -inf at 1, where its gradient is taken as 0."""
    all_taken = taken >= 1
    inner = jnp.log1p(-jnp.where(all_taken, jnp.zeros_like(taken), taken))
    return jnp.where(all_taken, jnp.asarray(-jnp.inf, taken.dtype), inner)
