"""The KL of next-token distributions, without cancelling."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# exp(-d) - 1 + d = d^2 (1/2 - d/6 + d^2/24 - ...); 1e-9 of itself away from it at d = 1/2.
_SERIES = tuple((-1) ** n / math.factorial(n) for n in range(2, 10))


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
    small, near = small_differences(p, d)
    terms = jnp.where(small, near, jnp.exp(log_q) - p + p * d)
    return jnp.sum(jnp.maximum(terms, 0), axis=-1)


def small_differences(p: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where d is small, and there p (exp(-d) - 1 + d) without cancelling."""
    small = jnp.abs(d) < 0.5
    near = jnp.where(small, d, jnp.zeros_like(d))
    series = jnp.full_like(near, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        series = series * near + jnp.asarray(coefficient, near.dtype)
    return small, p * (near * near * series)
