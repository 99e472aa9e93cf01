"""Encoder and decoder at the kept latents only, with backward passes that touch nothing else.

A BatchTopK code is zero at 99.9 % of its entries. The encoder's forward pass must look at all of
them; decoding, and every gradient, need only the kept ones. With `rows` = 1, on a CPU, the pairs
are gone through one after another (`sparse_rows`); on an accelerator `rows` are gathered at once.
An entry of value 0 is padding: it adds nothing and its value has no gradient.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from interp_jax.dictionaries import sparse_rows


def _chunks(array: jax.Array, rows: int) -> jax.Array:
    """[B, ...] -> [B/rows, rows, ...], padded with zeros (and latent 0, at value 0)."""
    padding = -array.shape[0] % rows
    widths = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, widths).reshape(-1, rows, *array.shape[1:])


def _dot(a: jax.Array, b: jax.Array, spec: str) -> jax.Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _weighted_rows(values: jax.Array, latents: jax.Array, table: jax.Array, rows: int):
    """[B, C], [B, C], [F, D] -> [B, D], the sum over C of value times the latent's row."""
    if rows == 1:
        return sparse_rows.weighted_rows(values, latents, table)

    def one(chunk):
        weights, index = chunk
        return _dot(weights.astype(table.dtype), table[index], "bc,bcd->bd")

    out = jax.lax.map(one, (_chunks(values, rows), _chunks(latents, rows)))
    return out.reshape(-1, table.shape[1])[: values.shape[0]]


def _row_products(x, values, latents, table, rows: int) -> jax.Array:
    """[B, D], [B, C], [B, C], [F, D] -> [B, C], x times a latent's row where there is a value."""
    if rows == 1:
        products = sparse_rows.row_products(values, latents, table[None], x[:, None])
        return products[:, :, 0, 0]

    def one(chunk):
        row, index = chunk
        return _dot(table[index], row.astype(table.dtype), "bcd,bd->bc")

    out = jax.lax.map(one, (_chunks(x, rows), _chunks(latents, rows)))
    return jnp.where(values != 0, out.reshape(-1, latents.shape[1])[: x.shape[0]], 0.0)


def _add_rows(values: jax.Array, latents: jax.Array, x: jax.Array, size: int, rows: int):
    """[B, C], [B, C], [B, D] -> [F, D]: value times x added to the latent's row, over all pairs."""
    empty = jnp.zeros((size, x.shape[1]), jnp.float32)
    if rows == 1:
        return sparse_rows.add_rows(values, latents, x, empty)

    def add(table, chunk):
        weights, index, row = chunk
        outer = weights[:, :, None] * row[:, None, :]
        return table.at[index].add(outer, mode="promise_in_bounds"), None

    chunks = tuple(_chunks(part, rows) for part in (values, latents, x))
    return jax.lax.scan(add, empty, chunks)[0]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def decode_at(values: jax.Array, latents: jax.Array, decoder: jax.Array, rows: int) -> jax.Array:
    """Reconstruction without bias from kept latents.

    Args:
        values: float32 [B, C], 0 where padding.
        latents: int32 [B, C].
        decoder: [F, O*D].
        rows: how many rows are gathered at once; 1: none, see above.

    Returns:
        float32 [B, O*D].
    """
    return _weighted_rows(values, latents, decoder, rows)


def _decode_forward(values, latents, decoder, rows):
    return decode_at(values, latents, decoder, rows), (values, latents, decoder)


def _decode_backward(rows, saved, gradient):
    values, latents, decoder = saved
    to_decoder = _add_rows(values, latents, gradient, decoder.shape[0], rows)
    to_values = _row_products(gradient, values, latents, decoder, rows)
    return to_values, None, to_decoder.astype(decoder.dtype)


decode_at.defvjp(_decode_forward, _decode_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def encode_at(
    x: jax.Array,
    encoder: jax.Array,
    bias: jax.Array,
    values: jax.Array,
    latents: jax.Array,
    rows: int,
) -> jax.Array:
    """`values`, told to be relu(x . encoder row + bias) of the kept latents.

    The forward pass of the encoder has been made densely; this only says how values depend on
    the weights, at the kept latents.

    Args:
        x: float32 [B, E*D], what the encoder reads.
        encoder: [F, E*D].
        bias: [F].
        values: float32 [B, C], 0 where padding.
        latents: int32 [B, C].
        rows: as in `decode_at`.
    """
    return values


def _encode_forward(x, encoder, bias, values, latents, rows):
    return values, (x, encoder, bias, values, latents)


def _encode_backward(rows, saved, gradient):
    x, encoder, bias, values, latents = saved
    gradient = jnp.where(values > 0, gradient, 0.0)
    to_x = _weighted_rows(gradient, latents, encoder, rows)
    to_encoder = _add_rows(gradient, latents, x, encoder.shape[0], rows)
    to_bias = jnp.zeros(bias.shape, jnp.float32).at[latents].add(gradient)
    return (
        to_x.astype(x.dtype),
        to_encoder.astype(encoder.dtype),
        to_bias.astype(bias.dtype),
        None,
        None,
    )


encode_at.defvjp(_encode_forward, _encode_backward)
