"""Running an edited network, with proof that the edits were applied."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder, Tape
from interp_jax.runtime.errors import UserError


@partial(jax.jit, static_argnames=("logits_at",))
def _forward(network: Decoder, batch: Batch, logits_at: str):
    return network(batch, logits_at=logits_at)


@jax.jit
def _forward_at(network: Decoder, batch: Batch, columns: jax.Array):
    return network(batch, logits_at=columns)


def run(
    network: Decoder, batch: Batch, *interventions, logits_at="all",
    allow_untouched: bool = False,
) -> tuple[jax.Array, Tape]:
    """Applies interventions in order and runs one compiled forward pass.

    Args:
        network, batch: what to run.
        interventions: each `network -> network`.
        logits_at: `all`, `last`, `none`, or int [P] or [B, P], columns of the caller's
            tokens; negative ones count from the last column.
        allow_untouched: accept an intervention that touched no token.

    Returns:
        (logits, tape).

    Raises:
        UserError: an intervention whose total touched count is zero, or columns that the
            batch does not have.
    """
    for intervention in interventions:
        network = intervention(network)
    if isinstance(logits_at, str):
        logits, tape = _forward(network, batch, logits_at)
    else:
        logits, tape = _forward_at(network, batch, token_columns(batch, logits_at))
    if not allow_untouched:
        require_touched(tape)
    return logits, tape


def token_columns(batch: Batch, columns) -> np.ndarray:
    """int32 [B, P] from int [P] or [B, P] columns of the caller's layout.

    Raises:
        UserError: another rank, or a column that the batch does not have.
    """
    rows, length = batch.tokens.shape
    columns = np.asarray(columns)
    fits = columns.ndim in (1, 2) and np.issubdtype(columns.dtype, np.integer)
    if not fits or np.any(columns < -length) or np.any(columns >= length):
        raise UserError(
            found=f"columns of shape {columns.shape} in {columns.reshape(-1)[:8].tolist()}",
            expected=f"whole numbers [P] or [rows, P] below {length}",
            do="count token columns from 0",
        )
    columns = np.where(columns < 0, columns + length, columns).astype(np.int32)
    return np.broadcast_to(columns, (rows, columns.shape[-1]))


def require_touched(tape: Tape) -> None:
    """Raises UserError naming every intervention on the tape that touched nothing."""
    idle = [
        name.removeprefix("touched/")
        for name, rows in tape.items()
        if name.startswith("touched/") and int(np.sum(np.asarray(rows))) == 0
    ]
    if idle:
        raise UserError(
            found=f"no token touched by {', '.join(idle)}",
            expected="at least one", do="check the where-clause, or pass allow_untouched=True",
        )
