"""A trace as a padded batch of equal rows, for the methods that look inside the model."""

from __future__ import annotations

import numpy as np

from interp_jax.generation.requests import bucket
from interp_jax.models.batch import Batch
from interp_jax.models.config import ModelConfig
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace

SHORTEST = 64


def trace_batch(trace: Trace, config: ModelConfig, rows: int = 1) -> Batch:
    """Prompt and trace in each of `rows` rows, padded on the right to a length bucket.

    Raises:
        UserError: it is longer than the network's context.
    """
    length = len(trace.ids)
    require_fits(length, config)
    width = bucket(length, SHORTEST)
    pad = lambda values: np.broadcast_to(np.pad(values, (0, width - length)), (rows, width))
    valid = np.broadcast_to(np.arange(width) < length, (rows, width))
    return Batch.make(pad(trace.ids), valid, roles=pad(trace.roles), packed=True)


def require_fits(length: int, config: ModelConfig) -> None:
    """Raises UserError for a prompt and trace that are longer than the network's context."""
    if length > config.max_context:
        raise UserError(
            found=f"a prompt and trace of {length} tokens",
            expected=f"at most {config.max_context}, the context of the network",
            do="shorten the trace, or take a model with a longer context",
        )
