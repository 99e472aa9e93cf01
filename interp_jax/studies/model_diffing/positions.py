"""Sets of positions over which a divergence is averaged.

A position stands for the prediction made there, of the token after it: what is asked of the
assistant's tokens is asked one position to their left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interp_jax.models import roles
from interp_jax.models.batch import Batch

FIRST = 10
"""Positions at the start of an assistant segment; the first of them is the template's, so nine
are left."""
SETS = ("all", "first_nine", "after_first_nine", "template")


def position_sets(batch: Batch, first: int = FIRST) -> jax.Array:
    """bool [4, B, T], in the order of `SETS`, in packed columns.

    `all`: predictions of assistant tokens. `first_nine`: among the first ten positions of each
    segment of them, those that are not the template's own; with a header before each answer
    these are nine, and the prediction of the very first token of the answer is left out.
    `after_first_nine`: `all` without `first_nine`, so it does hold that prediction.
    `template`: predictions made at the template's tokens, of any token that follows.

    Args:
        batch: with roles; its rows are single conversations.
        first: length of the start of a segment, the template's position counted.
    """
    assistant = predicts(batch, (roles.REASONING, roles.ANSWER))
    template = batch.valid & (batch.roles == roles.TEMPLATE)
    column = jnp.broadcast_to(jnp.arange(batch.tokens.shape[1])[None], batch.tokens.shape)
    before = jnp.pad(assistant[:, :-1], ((0, 0), (1, 0)))
    starts = jnp.where(assistant & ~before, column, 0)
    offset = column - jax.lax.cummax(starts, axis=1)
    nine = assistant & (offset < first) & ~template
    return jnp.stack([assistant, nine, assistant & ~nine, template & _followed(batch)])


def predicts(batch: Batch, of: tuple[int, ...]) -> jax.Array:
    """bool [B, T]: whether the next token of the row has one of the roles."""
    wanted = jnp.any(batch.roles[:, :, None] == jnp.asarray(of, jnp.int8)[None, None], axis=-1)
    wanted = wanted & batch.valid
    return jnp.pad(wanted[:, 1:], ((0, 0), (0, 1))) & batch.valid


def _followed(batch: Batch) -> jax.Array:
    return batch.valid & jnp.pad(batch.valid[:, 1:], ((0, 0), (0, 1)))
