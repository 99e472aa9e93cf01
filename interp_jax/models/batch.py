"""Tokens as a network takes them: positions and masks derived in one place.

Everything that depends on padding comes from `Batch.make`: forward, prefill,
decode, capture and loss all read the same fields. Rows are packed to the left
before anything is computed, so the side of the padding cannot change a bit;
`unpack` puts results back where the caller's tokens were.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from penzai.core import struct

from interp_jax.runtime.errors import UserError

NOWHERE = np.int32(2**31 - 1)  # the position of a key that nobody may see


@struct.pytree_dataclass
class Batch(struct.Struct):
    """Rows of tokens, packed to the left.

    Attributes:
        tokens: int32 [B, T]; what stands behind a row's end is never read.
        valid: bool [B, T]; true for a row's own tokens.
        positions: int32 [B, T]; counted over the row's own tokens, 0 where invalid.
        roles: int8 [B, T]; see `roles`.
        lengths: int32 [B]; the length that negative positions count back from:
            the row's tokens in a forward pass, its prompt during generation.
        order: int32 [B, T] or None; packed column -> column in the caller's
            layout; None when rows came packed.
    """

    tokens: jax.Array
    valid: jax.Array
    positions: jax.Array
    roles: jax.Array
    lengths: jax.Array
    order: jax.Array | None = None

    @classmethod
    def make(cls, tokens, valid=None, *, roles=None, lengths=None, start=None, packed=None):
        """Builds a batch.

        Args:
            tokens: int [B, T].
            valid: bool [B, T]; None when every token is a row's own.
            roles: int [B, T]; None for all zero.
            lengths: int [B], see the class; None for each row's own count.
            start: int [B], position of each row's first token; None for 0.
            packed: whether each row's valid tokens stand at the left without
                gaps; None looks (traced arrays are then assumed not to be).

        Raises:
            UserError: shapes that do not agree.
        """
        shape = jnp.shape(tokens)
        for name, array in (("valid", valid), ("roles", roles)):
            if array is not None and jnp.shape(array) != shape:
                raise UserError(
                    found=f"{name} of shape {jnp.shape(array)}",
                    expected=f"the shape of tokens, {shape}", do="pad both alike",
                )
        if len(shape) != 2:
            raise UserError(
                found=f"tokens of shape {shape}", expected="[rows, tokens]", do="add a row axis"
            )
        if packed is None:
            packed = valid is None or _is_packed(valid)
        tokens = jnp.asarray(tokens, jnp.int32)
        valid = jnp.ones(shape, bool) if valid is None else jnp.asarray(valid, bool)
        roles = jnp.zeros(shape, jnp.int8) if roles is None else jnp.asarray(roles, jnp.int8)
        order = None
        if not packed:
            order = jnp.argsort(~valid, axis=1, stable=True).astype(jnp.int32)
            tokens, valid, roles = (
                jnp.take_along_axis(a, order, axis=1) for a in (tokens, valid, roles)
            )
        # An id beyond the vocabulary would become NaN, and 0 * NaN reaches the other tokens.
        tokens = jnp.where(valid, tokens, jnp.int32(0))
        counts = jnp.sum(valid, axis=1, dtype=jnp.int32)
        start = jnp.zeros(shape[:1], jnp.int32) if start is None else jnp.asarray(start, jnp.int32)
        lengths = start + counts if lengths is None else jnp.asarray(lengths, jnp.int32)
        columns = jnp.arange(shape[1], dtype=jnp.int32)
        positions = jnp.where(valid, start[:, None] + columns[None, :], jnp.int32(0))
        return cls(tokens, valid, positions, roles, lengths, order)

    @property
    def key_positions(self) -> jax.Array:
        """int32 [B, T]; positions, or `NOWHERE` where there is no token."""
        return jnp.where(self.valid, self.positions, jnp.int32(NOWHERE))

    @property
    def last(self) -> jax.Array:
        """int32 [B]; packed column of each row's last token (0 for an empty row)."""
        return jnp.maximum(jnp.sum(self.valid, axis=1, dtype=jnp.int32) - jnp.int32(1), 0)

    def unpack(self, x: jax.Array, axis: int = 1) -> jax.Array:
        """Moves `x` [B, ..., T, ...] from packed columns to the caller's columns."""
        if self.order is None:
            return x
        inverse = jnp.argsort(self.order, axis=1)
        shape = [1] * x.ndim
        shape[0], shape[axis] = inverse.shape
        return jnp.take_along_axis(x, inverse.reshape(shape), axis=axis)

    def pack_columns(self, columns: jax.Array) -> jax.Array:
        """int32 [B, P]; the caller's columns -> packed columns."""
        if self.order is None:
            return columns
        inverse = jnp.argsort(self.order, axis=1).astype(jnp.int32)
        return jnp.take_along_axis(inverse, columns, axis=1)

    def at(self, columns: jax.Array) -> Batch:
        """The batch of the tokens in packed `columns` [B, P]."""
        take = lambda a: jnp.take_along_axis(a, columns, axis=1)
        return dataclasses.replace(
            self, tokens=take(self.tokens), valid=take(self.valid),
            positions=take(self.positions), roles=take(self.roles), order=None,
        )


def _is_packed(valid) -> bool:
    if isinstance(valid, jax.core.Tracer):
        return False
    valid = np.asarray(valid, bool)
    return bool(np.all(valid[:, :-1] >= valid[:, 1:]))
