"""Which model a latent belongs to: the relative norm of its two decoder rows, and its class.

Sign trap: the paper's Delta is 1 for a latent of the second (chat) model alone; the column
`dec_norm_diff` of the released tables is 1 - Delta, 0 for the same latent. Both are here under
their own names.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.runtime.errors import UserError


def delta(norms: jax.Array) -> jax.Array:
    """The paper's Delta: 0 first (base) model only, 0.5 shared, 1 second (chat) model only.

    1/2 (1 + (second - first) / max(second, first)); section 6 of the crosscoder paper's text.

    Args:
        norms: float32 [2, F], decoder norms of the first and the second model.

    Returns:
        float32 [F]; NaN where both norms are 0.

    Raises:
        UserError: not two models.
    """
    if norms.ndim != 2 or norms.shape[0] != 2:
        raise UserError(
            found=f"decoder norms of shape {norms.shape}",
            expected="[2, F]",
            do="choose two of the dictionary's outputs",
        )
    first, second = norms
    largest = jnp.maximum(first, second)
    ratio = (second - first) / jnp.where(largest > 0, largest, 1.0)
    return jnp.where(largest > 0, 0.5 * (1 + ratio), jnp.nan)


def dec_norm_diff(norms: jax.Array) -> jax.Array:
    """`dec_norm_diff` of the released tables, 1 - Delta: 0 second (chat) model only, 1 first."""
    return 1 - delta(norms)


class Classes(NamedTuple):
    """Bool [F] each, disjoint, together everything: by the rules of the released code.

    Attributes:
        base_only: Delta < 0.1.
        shared: |Delta - 0.5| < 0.1.
        chat_only: Delta > 0.9.
        other: the rest, and latents without a Delta.
    """

    base_only: jax.Array
    shared: jax.Array
    chat_only: jax.Array
    other: jax.Array


def classes(delta_of: jax.Array) -> Classes:
    """The class of each latent from its Delta, float32 [F] (first model: base, second: chat)."""
    base, chat = delta_of < 0.1, delta_of > 0.9
    shared = jnp.abs(delta_of - 0.5) < 0.1
    return Classes(base, shared, chat, ~(base | shared | chat))


def class_counts(delta_of: jax.Array, alive: jax.Array) -> dict[str, jax.Array]:
    """How many latents each class has: `<class>` over all, `<class>_alive` over alive ones.

    With tied initialisation a latent that never fires keeps Delta 0.5 and counts as shared, so
    the first kind flatters sharing.

    Args:
        delta_of: float32 [F].
        alive: bool [F].

    Returns:
        int32 [] each.
    """
    counts = {}
    for name, mask in classes(delta_of)._asdict().items():
        counts[name] = jnp.sum(mask, dtype=jnp.int32)
        counts[f"{name}_alive"] = jnp.sum(mask & alive, dtype=jnp.int32)
    return counts
