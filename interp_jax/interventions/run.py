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


def run(
    network: Decoder, batch: Batch, *interventions, logits_at: str = "all",
    allow_untouched: bool = False,
) -> tuple[jax.Array, Tape]:
    """Applies interventions in order and runs one compiled forward pass.

    Args:
        network, batch: what to run.
        interventions: each `network -> network`.
        logits_at: `all`, `last` or `none`.
        allow_untouched: accept an intervention that touched no token.

    Returns:
        (logits, tape).

    Raises:
        UserError: an intervention whose total touched count is zero.
    """
    for intervention in interventions:
        network = intervention(network)
    logits, tape = _forward(network, batch, logits_at)
    if not allow_untouched:
        require_touched(tape)
    return logits, tape


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
