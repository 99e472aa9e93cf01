"""Which tokens an edit or a read touches: one clause for both.

A clause is data, so a sweep over positions or spans compiles once. Positions
are counted over a row's own tokens, whatever the padding; negative ones count
back from the row's length (its prompt's length during generation).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from penzai.core import struct

from interp_jax.models.batch import Batch
from interp_jax.runtime.errors import UserError


@struct.pytree_dataclass
class Where(struct.Struct):
    """Tokens that meet every given clause, minus those of `exclude`.

    Attributes:
        positions: int [P] for all rows or [B, P] per row; negative from the end.
        spans: int [S, 2] for all rows or [B, S, 2] per row; half-open
            [start, end) in own positions, negative from the end. Empty spans
            (start = end) hold nothing, so rows may have different numbers.
        roles: int [R]; see `interp_jax.models.roles`.
        token_ids: int [K].
        exclude: tokens to leave out.

    Raises:
        UserError: an operand of another rank.
    """

    positions: jax.Array | None = None
    spans: jax.Array | None = None
    roles: jax.Array | None = None
    token_ids: jax.Array | None = None
    exclude: Where | None = None

    def __post_init__(self):
        ranks = {"positions": (1, 2), "spans": (2, 3), "roles": (1,), "token_ids": (1,)}
        for name, allowed in ranks.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, jax.Array):
                value = np.asarray(value, np.int32)
            if value.ndim not in allowed or (name == "spans" and value.shape[-1] != 2):
                raise UserError(
                    found=f"`{name}` of shape {value.shape} in a where-clause",
                    expected={"spans": "[spans, 2] or [rows, spans, 2]"}.get(
                        name, " or ".join(f"{r} axes" for r in allowed)
                    ),
                    do="give one clause for all rows or one per row",
                )
            object.__setattr__(self, name, value)

    def __call__(self, tokens: Batch) -> jax.Array:
        """bool [B, T]; true for the tokens meant."""
        mask = tokens.valid
        if self.positions is not None:
            wanted = _from_end(_rows(self.positions, 1), tokens.lengths[:, None])
            mask &= jnp.any(tokens.positions[:, :, None] == wanted[:, None, :], axis=-1)
        if self.spans is not None:
            spans = _rows(self.spans, 2)
            ends = _from_end(spans, tokens.lengths[:, None, None])
            at = tokens.positions[:, :, None]
            inside = (ends[:, None, :, 0] <= at) & (at < ends[:, None, :, 1])
            mask &= jnp.any(inside, axis=-1)
        if self.roles is not None:
            mask &= _one_of(tokens.roles.astype(jnp.int32), self.roles)
        if self.token_ids is not None:
            mask &= _one_of(tokens.tokens, self.token_ids)
        if self.exclude is not None:
            mask &= ~self.exclude(tokens)
        return mask


def _rows(value, rank: int) -> jax.Array:
    """`value` as int32 with a leading row axis (1 when it is shared)."""
    value = jnp.asarray(value).astype(jnp.int32)
    return value[None] if value.ndim == rank else value


def _from_end(value: jax.Array, lengths: jax.Array) -> jax.Array:
    return jnp.where(value < 0, value + lengths, value)


def _one_of(tokens: jax.Array, choices) -> jax.Array:
    choices = jnp.asarray(choices).astype(jnp.int32)
    return jnp.any(tokens[:, :, None] == choices[None, None, :], axis=-1)


EVERYWHERE = Where()
