"""Activation functions whose derivative is a convention, and norms that have one at zero."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def safe_norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """L2 norm along `axis` [...], with gradient 0 (not NaN) where it is 0."""
    squared = jnp.sum(jnp.square(x), axis=axis)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _window(distance: jax.Array, bandwidth: float) -> jax.Array:
    """The rectangle kernel over `bandwidth`, of height 1."""
    return (jnp.abs(distance) < bandwidth / 2).astype(distance.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def jumprelu(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    """pre where it exceeds max(threshold, 0), else 0. [..., F] and [F] -> [..., F].

    The gradient for the threshold is the straight-through estimate of Rajamanoharan et al. 2024
    (arXiv 2407.14435), eq. 11: -(threshold / bandwidth) inside a window of that width.
    """
    return jnp.where(pre > _rows(jnp.maximum(threshold, 0.0), pre), pre, 0.0)


def _rows(vector: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(vector, like.shape)


def _jumprelu_forward(pre, threshold, bandwidth):
    return jumprelu(pre, threshold, bandwidth), (pre, threshold)


def _jumprelu_backward(bandwidth, saved, gradient):
    pre, threshold = saved
    level = _rows(jnp.maximum(threshold, 0.0), pre)
    to_pre = jnp.where(pre > level, gradient, 0.0)
    slope = -(level / bandwidth) * _window(pre - level, bandwidth) * gradient
    return to_pre, _sum_to(slope, threshold)


def _sum_to(values: jax.Array, like: jax.Array) -> jax.Array:
    # The threshold sits at max(threshold, 0), whose derivative below zero is 0.
    total = jnp.sum(values, axis=tuple(range(values.ndim - like.ndim)))
    return jnp.where(like >= 0, total, 0.0)


jumprelu.defvjp(_jumprelu_forward, _jumprelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def step(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    """1 where pre exceeds max(threshold, 0), else 0; the L0 of a JumpReLU dictionary.

    Straight-through gradient for the threshold, -1 / bandwidth inside a window of that width
    (eq. 12 of the same paper); none for `pre`.
    """
    return (pre > _rows(jnp.maximum(threshold, 0.0), pre)).astype(pre.dtype)


def _step_forward(pre, threshold, bandwidth):
    return step(pre, threshold, bandwidth), (pre, threshold)


def _step_backward(bandwidth, saved, gradient):
    pre, threshold = saved
    level = _rows(jnp.maximum(threshold, 0.0), pre)
    slope = -(1.0 / bandwidth) * _window(pre - level, bandwidth) * gradient
    return jnp.zeros_like(pre), _sum_to(slope, threshold)


step.defvjp(_step_forward, _step_backward)
