"""What becomes of the tape during decoding: kept per generated token, last, or summed.

Counts are always summed, per row. A read is kept as asked: `last` (the newest
token's value), `sum`, or `per_token` (one entry for each step, the token that
was fed in that step: first the prompt's last, then the generated ones).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from interp_jax.interventions.placing import tap_names
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder, Tape
from interp_jax.models.stack import Stack

Keep = Literal["last", "sum", "per_token"]
_STEP = "steps/"


def row_axes(network: Decoder) -> dict[str, int]:
    """Tape name of each read -> its row axis: 1 behind a layer axis, else 0."""
    axes = {}
    for segment in network.segments:
        groups = segment.taps if isinstance(segment, Stack) else (segment.taps,)
        axes.update({p.tap.name: 1 for group in groups for p in group})
    axes.update({p.tap.name: 0 for p in network.taps})
    return axes


def empty_tape(network: Decoder, rows: int, budget: int, keep: Keep | None) -> Tape:
    """Zeros for everything that one decode step of `network` puts on the tape.

    Args:
        keep: what becomes of reads; None drops them.

    Returns:
        Arrays with rows first: counts [B]; reads [B, ...], or [B, M, ...] for
        `per_token`, under names that `collect` knows.
    """
    axes, tape = row_axes(network), {}
    if not tap_names(network):
        return tape
    cache = network.empty_cache(rows, 1)
    batch = Batch.make(jnp.zeros((rows, 1), jnp.int32), packed=True)
    look = lambda network, cache: network.extend(batch, cache, logits_at="last")[1]
    shapes = jax.eval_shape(look, network, cache)
    for name, shape in shapes.items():
        if name not in axes:
            tape[name] = jnp.zeros(shape.shape, shape.dtype)
        elif keep is not None:
            own = list(shape.shape)
            own.insert(0, own.pop(axes[name]))
            if keep == "per_token":
                own.insert(1, budget)
            tape[f"{_STEP}{keep}/{name}"] = jnp.zeros(own, shape.dtype)
    return tape


def collect(network: Decoder, kept: Tape, tape: Tape, active: jax.Array, step: jax.Array) -> Tape:
    """Adds one step's tape to what was kept, for the rows that were active."""
    axes, result = row_axes(network), {}
    for key, old in kept.items():
        if not key.startswith(_STEP):
            result[key] = old + jnp.where(active, tape[key], jnp.zeros_like(tape[key]))
            continue
        keep, name = key[len(_STEP) :].split("/", 1)
        new = jnp.moveaxis(tape[name], axes[name], 0)
        live = active.reshape(-1, *([1] * (new.ndim - 1)))
        if keep == "per_token":
            rows = jnp.arange(new.shape[0])
            at = jnp.where(active, step, jnp.int32(old.shape[1]))
            result[key] = old.at[rows, at].set(new, mode="drop")
        elif keep == "sum":
            result[key] = old + jnp.where(live, new, jnp.zeros_like(new))
        else:
            result[key] = jnp.where(live, new, old)
    return result


def counts_of(network: Decoder, tape: Tape) -> Tape:
    """The part of a tape that is counts, int32 [B], rather than reads."""
    reads = row_axes(network)
    return {name: array for name, array in tape.items() if name not in reads}


def is_per_token(key: str) -> bool:
    """Whether a kept entry has one value for each generated token."""
    return key.startswith(f"{_STEP}per_token/")


def public_name(key: str) -> str:
    """The tape name that a user asked for."""
    return key[len(_STEP) :].split("/", 1)[1] if key.startswith(_STEP) else key
