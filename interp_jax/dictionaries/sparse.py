"""Encoder and decoder at the kept latents only, with backward passes that touch nothing else.

A BatchTopK code is zero at 99.9 % of its entries. The encoder's forward pass must look at all of
them; decoding, and every gradient, need only the kept ones, which are gone through one after
another (`sparse_rows`). That is for a CPU; an accelerator multiplies matrices instead.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.sparse_rows import (
    BothWays,
    lists_of_rows,
    row_products,
    weighted_rows,
)


@jax.custom_vjp
def decode_at(values: jax.Array, pairs: BothWays, decoder: jax.Array) -> jax.Array:
    """Reconstruction without bias from kept latents.

    Args:
        values: float32 [N], by row; an entry of 0 is padding, and has no gradient.
        pairs: of B rows and F latents.
        decoder: [F, O*D].

    Returns:
        float32 [B, O*D].
    """
    return weighted_rows(values, pairs.by_row, decoder)


def _decode_forward(values, pairs, decoder):
    return decode_at(values, pairs, decoder), (values, pairs, decoder)


def _decode_backward(saved, gradient):
    values, pairs, decoder = saved
    values = jnp.take(values, pairs.order, mode="clip")
    to_decoder = weighted_rows(values, pairs.by_latent, gradient)
    found = row_products(values, pairs.by_latent, gradient[None], decoder[:, None])[:, 0, 0]
    to_values = jnp.zeros_like(found).at[pairs.order].set(found, mode="drop")
    return to_values, None, to_decoder.astype(decoder.dtype)


decode_at.defvjp(_decode_forward, _decode_backward)


@jax.custom_vjp
def encode_at(
    x: jax.Array, encoder: jax.Array, bias: jax.Array, values: jax.Array, pairs: BothWays
) -> jax.Array:
    """`values`, told to be relu(x . encoder row + bias) of the kept latents.

    The forward pass of the encoder has been made densely; this only says how values depend on
    the weights, at the kept latents.

    Args:
        x: float32 [B, E*D], what the encoder reads.
        encoder: [F, E*D].
        bias: [F].
        values: float32 [N], by row, 0 where padding.
        pairs: of B rows and F latents.
    """
    return values


def _encode_forward(x, encoder, bias, values, pairs):
    return values, (x, encoder, bias, values, pairs)


def _encode_backward(saved, gradient):
    x, encoder, bias, values, pairs = saved
    gradient = jnp.where(values > 0, gradient, 0.0)
    to_x = weighted_rows(gradient, pairs.by_row, encoder)
    to_encoder = weighted_rows(
        jnp.take(gradient, pairs.order, mode="clip"), pairs.by_latent, x
    )
    to_bias = jnp.zeros(bias.shape, jnp.float32).at[pairs.by_row.index].add(gradient)
    return (
        to_x.astype(x.dtype), to_encoder.astype(encoder.dtype), to_bias.astype(bias.dtype), None,
        None,
    )


encode_at.defvjp(_encode_forward, _encode_backward)


def decode_rows(
    values: jax.Array, latents: jax.Array, decoder: jax.Array, rows_at_once: int
) -> jax.Array:
    """Reconstruction without bias from at most C latents of each row; no gradient is made for it.

    Args:
        values: float32 [B, C], 0 where padding.
        latents: int32 [B, C].
        decoder: [F, D].
        rows_at_once: rows of which the C latents are gathered at once, for an accelerator; 1, for
            a CPU: the pairs one after another.

    Returns:
        float32 [B, D].
    """
    if rows_at_once == 1:
        lists = lists_of_rows(latents, held(values))
        return weighted_rows(values.reshape(-1), lists, decoder)

    def one(of):
        weights, index = of
        weights = weights.astype(decoder.dtype)
        return jnp.einsum(
            "c,cd->d", weights, decoder[index], preferred_element_type=jnp.float32
        )

    return jax.lax.map(one, (values, latents), batch_size=rows_at_once)


def held(values: jax.Array) -> jax.Array:
    """int32 [B]: places of each row [C] up to the last value that is not 0."""
    place = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) + 1
    return jnp.max(jnp.where(values != 0, place, 0), axis=1, initial=0)
