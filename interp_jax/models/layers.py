"""The small pure pieces of a block: projections, norms, rotation, activations.

Weights may be bfloat16; the residual stream, norms and everything that is
summed stay in the wide dtype (float32, or float64 for float64 weights).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.models.config import Rope


def wide(dtype) -> jnp.dtype:
    """float32, or float64 when the weights are float64."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


@jax.custom_jvp
def settle(x: jax.Array) -> jax.Array:
    """x itself, but rounded before anything is done with it.

    A compiler contracts a product with the sum that takes it into one rounding, or does not,
    depending on what stands around them. An edit that changes nothing would change that and
    lose the base model's bits, so it is stopped in every network alike. XLA on a CPU drops
    `optimization_barrier` and idle `reduce_precision` too early, and sees through a choice by
    mask. What it does not see: the square of a whole number is 0, 1 or 4 modulo 8, so its bits
    0 and 2 are never both set.
    """
    whole = jnp.int64 if x.dtype == jnp.float64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(x, whole)
    square = bits * bits
    never = square & (square >> jnp.asarray(2, whole)) & jnp.asarray(1, whole)
    return jax.lax.bitcast_convert_type(bits ^ never, x.dtype)


@settle.defjvp
def _settle_jvp(primals, tangents):
    return settle(*primals), tangents[0]


def row_sum(x: jax.Array) -> jax.Array:
    """[..., D] -> [...]: the sum over the last axis, with bits that depend on x alone.

    A product with ones: XLA on a CPU reorders a plain sum to suit the code it is fused with, so
    an edit nearby would change its bits.
    """
    ones = jnp.ones(x.shape[-1:], x.dtype)
    return jnp.einsum("...d,d->...", x, ones, precision=jax.lax.Precision.HIGHEST)


@struct.pytree_dataclass
class Linear(struct.Struct):
    """`x @ weight + bias`: weight [in, out], bias [out] or None."""

    weight: jax.Array
    bias: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out] in the wide dtype; products in the weight's dtype."""
        y = jnp.einsum(
            "...i,io->...o", x.astype(self.weight.dtype), self.weight,
            preferred_element_type=wide(self.weight.dtype),
        )
        if self.bias is None:
            return y
        bias = self.bias.astype(y.dtype)
        return y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))


@struct.pytree_dataclass
class RMSNorm(struct.Struct):
    """`x / sqrt(mean(x^2) + eps) * (gain + offset)`, over the last axis.

    Attributes:
        gain: [D].
        eps, offset: see `ModelConfig`.
    """

    gain: jax.Array
    eps: float = dataclasses.field(metadata={"pytree_node": False})
    offset: float = dataclasses.field(metadata={"pytree_node": False})

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D], computed in x's dtype."""
        mean_square = row_sum(x * x)[..., None] / jnp.asarray(x.shape[-1], x.dtype)
        gain = self.gain.astype(x.dtype) + jnp.asarray(self.offset, x.dtype)
        normed = x * settle(jax.lax.rsqrt(mean_square + jnp.asarray(self.eps, x.dtype)))
        return normed * jnp.expand_dims(gain, tuple(range(x.ndim - 1)))


def activate(name: str, x: jax.Array) -> jax.Array:
    """The gate's activation: `silu`, `gelu` (exact) or `gelu_tanh`."""
    if name == "silu":
        return jax.nn.silu(x)
    return jax.nn.gelu(x, approximate=name == "gelu_tanh")


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, or x when there is no cap."""
    if cap is None:
        return x
    cap = jnp.asarray(cap, x.dtype)
    return cap * jnp.tanh(x / cap)


def rotary_angles(rope: Rope, head_dim: int, positions: jax.Array, dtype) -> tuple:
    """cos and sin of the rotation, each [B, T, head_dim / 2].

    Frequencies are made on the host in float64 and rounded once, angles and
    their cosines are in `dtype`.
    """
    frequencies = [rope.theta ** (-2.0 * i / head_dim) for i in range(head_dim // 2)]
    if rope.llama3 is not None:
        frequencies = [_llama3(f, rope.llama3) for f in frequencies]
    frequencies = [f / rope.linear_factor for f in frequencies]
    table = jnp.asarray(frequencies, dtype)
    angles = positions[..., None].astype(dtype) * table[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def _llama3(frequency: float, scaling) -> float:
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return frequency
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates [B, T, H, head_dim] by halves."""
    cos, sin = (a[:, :, None, :] for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
