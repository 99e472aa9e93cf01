"""Cross-entropy of the next token, over the tokens that are to be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.reads import Read
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.models.token_rows import TokenRows
from interp_jax.runtime.errors import UserError

# Positions of all rows together whose logits exist at once.
_POSITIONS = 256


def learnt_mask(
    rows: TokenRows, loss_roles: Sequence[str] = (), end_of_turn: bool = True
) -> np.ndarray:
    """Which tokens are learnt, each predicted from those before it: bool, the shape of `rows`.

    Args:
        rows: [..., T].
        loss_roles: names of roles; empty: every token.
        end_of_turn: also the template's token right after a token of these roles.

    Padding and a row's first token, which nothing predicts, are never learnt.
    """
    mask = np.array(rows.valid, bool)
    if loss_roles:
        chosen = np.isin(rows.roles, [roles.NAMES[name] for name in loss_roles])
        if end_of_turn:
            before = np.roll(chosen, 1, axis=-1)
            before[..., 0] = False
            chosen = chosen | (before & (np.asarray(rows.roles) == roles.TEMPLATE))
        mask &= chosen
    mask[..., 0] = False
    return mask


def summed_loss(network: Decoder, rows: TokenRows, mask: jax.Array) -> jax.Array:
    """The sum over masked tokens of their cross-entropy, float32 [], in nats.

    Pure and differentiable. Logits exist for a few positions at a time, and are computed again
    for the gradient.

    Args:
        network: without taps at `final_norm` or `logits`.
        rows: [B, T], padding at the end of rows.
        mask: bool [B, T], tokens that count (`learnt_mask`).

    Raises:
        UserError: taps beyond the last block.
    """
    if any(placed.tap.site.name in ("final_norm", "logits") for placed in network.taps):
        raise UserError(
            found="interventions beyond the last block", expected="none there while training",
            do="detach them",
        )
    batch = Batch.make(rows.tokens, rows.valid, roles=rows.roles, packed=True)
    last = Read("last_stream", Site("resid_post", (network.config.n_layers - 1,)))
    _, tape = last(network)(batch, logits_at="none")
    stream = tape["last_stream"][0]  # [B, T, D]
    # Position t predicts token t + 1.
    parts = (stream[:, :-1], batch.tokens[:, 1:], mask[:, 1:])
    chunk = partial(jax.checkpoint(_chunk_loss), network)
    return jnp.sum(jax.lax.map(lambda part: chunk(*part), tuple(_chunks(p) for p in parts)))


def _chunk_loss(network: Decoder, stream, following, counted) -> jax.Array:
    """The sum over a few positions: streams [P, D], following tokens [P], which count [P]."""
    log_probs = jax.nn.log_softmax(network.unembed(stream[None])[0].astype(jnp.float32), axis=-1)
    own = jnp.take_along_axis(log_probs, following[:, None], axis=-1)[:, 0]
    return -jnp.sum(jnp.where(counted, own, jnp.zeros((), jnp.float32)))


def _chunks(array: jax.Array) -> jax.Array:
    """[B, T, ...] -> [N, positions, ...], padded with zeros."""
    flat = array.reshape(-1, *array.shape[2:])
    size = min(_POSITIONS, flat.shape[0])
    padding = [(0, -flat.shape[0] % size)] + [(0, 0)] * (flat.ndim - 1)
    return jnp.pad(flat, padding).reshape(-1, size, *flat.shape[1:])


_summed_loss = jax.jit(summed_loss)


def mean_loss(
    network: Decoder, batches: Sequence[TokenRows], loss_roles: Sequence[str] = (),
    end_of_turn: bool = True,
) -> float:  # fmt: skip
    """The mean cross-entropy in nats over all tokens of `batches` that `learnt_mask` names.

    Raises:
        UserError: there is no such token.
    """
    total, count = 0.0, 0
    for rows in batches:
        mask = learnt_mask(rows, loss_roles, end_of_turn)
        total += float(_summed_loss(network, rows, mask))
        count += int(mask.sum())
    require_learnt(count, loss_roles)
    return total / count


def require_learnt(count: int, loss_roles: Sequence[str]) -> None:
    """Raises UserError where no token is to be learnt."""
    if not count:
        raise UserError(
            found=f"no token of the roles {', '.join(loss_roles) or '(any)'}",
            expected="at least one in every step", do="check the roles, or take longer rows",
        )
