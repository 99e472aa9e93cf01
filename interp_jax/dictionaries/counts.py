"""What training counts: thresholds, tokens since a latent was kept, the k of a step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from interp_jax.dictionaries.recipe import Recipe

_LONG = 2**30  # a silence at which the counter stops, well above any `dead_after`


class Seen(NamedTuple):
    """What a batch says about the counts; nothing is counted until `apply_counts`.

    Attributes:
        fired: bool [F], latents kept at least once.
        smallest: float32 [] (or [O] when decoupled), the smallest kept scaled value; +inf when
            nothing positive was kept.
        tokens: int32 [], rows in the batch.
    """

    fired: jax.Array
    smallest: jax.Array
    tokens: jax.Array


def apply_counts(counts: nnx.State, seen: Seen, step: jax.Array, recipe: Recipe) -> nnx.State:
    """The counts after a training step (section 3.2). Pure; a logging call just does not make it.

    The threshold follows the smallest kept value from the first step above
    `recipe.threshold_start`: that value itself first (while the threshold is negative), then by
    moving average. A batch in which nothing positive was kept leaves it.

    Args:
        counts: of `split`.
        seen: of `loss`.
        step: int32 [], from 0.
        recipe: how fast the threshold moves and when it starts.
    """
    silent, threshold = counts["silent_tokens"], counts["threshold"]
    waited = jnp.minimum(silent.get_value() + seen.tokens, _LONG)
    old, decay = threshold.get_value(), recipe.threshold_decay
    moved = jnp.where(old < 0, seen.smallest, decay * old + (1 - decay) * seen.smallest)
    active = (step > recipe.threshold_start) & jnp.isfinite(seen.smallest)
    # A copy, so that the caller's state stays as it was.
    after = jax.tree.map(lambda array: array, counts)
    after["silent_tokens"] = silent.replace(jnp.where(seen.fired, 0, waited))
    after["threshold"] = threshold.replace(jnp.where(active, moved, old))
    return after


def annealed_k(k: jax.Array, step: jax.Array, recipe: Recipe) -> jax.Array:
    """k of a step, int32 []: from `recipe.k_start` linearly to k, rounded, at least 1.

    With `k_steps` 0 (the default) it is k from the first step.
    """
    k_steps = jnp.asarray(recipe.k_steps, jnp.float32)
    share = jnp.clip(step.astype(jnp.float32) / jnp.maximum(k_steps, 1.0), 0.0, 1.0)
    share = jnp.where(k_steps > 0, share, 1.0)
    start = jnp.asarray(recipe.k_start, jnp.float32)
    value = start + (k.astype(jnp.float32) - start) * share
    return jnp.maximum(jnp.round(value).astype(jnp.int32), 1)
