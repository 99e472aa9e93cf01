"""Logits of a slice of the vocabulary at a time: what is summed over it never exists whole.

On a CPU the product of many positions with few words runs at the best rate, and what is made of
the logits is made in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from interp_jax.models.decoder import Decoder
from interp_jax.models.layers import softcap, wide

_WORDS_ELSEWHERE = 16384  # an accelerator starts a few kernels for each slice


def project(network: Decoder, hidden: jax.Array, words: jax.Array | None = None) -> jax.Array:
    """Logits, float32 [..., V], of streams after the final norm [..., D].

    Args:
        words: part of `vocabulary(network)`; None for all of it.
    """
    tied = network.head is None
    matrix = vocabulary(network) if words is None else words
    logits = jnp.einsum(
        "...d,vd->...v" if tied else "...d,dv->...v", hidden.astype(matrix.dtype), matrix,
        preferred_element_type=wide(matrix.dtype),
    )
    return softcap(logits, network.config.logit_softcap)


def vocabulary(network: Decoder) -> jax.Array:
    """The output matrix: [V, D] where it is tied to the embedding, else [D, V]."""
    return network.embed if network.head is None else network.head


def through_vocabulary(
    network: Decoder, hidden: jax.Array, carry: Any, words: int,
    add: Callable[[Any, jax.Array, jax.Array, jax.Array], Any],
) -> Any:
    """What is gathered over all words.

    Args:
        hidden: [..., D], streams after the final norm.
        carry: what nothing has been added to yet.
        words: in a slice, on a CPU.
        add: (carry, logits [..., v], id of their first word int32 [], their slice of
            `vocabulary`) -> carry.
    """
    matrix, axis = vocabulary(network), 0 if network.head is None else 1
    total = matrix.shape[axis]
    size = min(total, words if jax.default_backend() == "cpu" else _WORDS_ELSEWHERE)

    def step(carry: Any, first: jax.Array, size: int) -> Any:
        part = jax.lax.dynamic_slice_in_dim(matrix, first, size, axis)
        return add(carry, project(network, hidden, part), first, part)

    whole = jnp.arange(total // size, dtype=jnp.int32) * size
    carry = jax.lax.scan(lambda carry, first: (step(carry, first, size), None), carry, whole)[0]
    if total % size:
        carry = step(carry, jnp.int32(total - total % size), total % size)
    return carry
