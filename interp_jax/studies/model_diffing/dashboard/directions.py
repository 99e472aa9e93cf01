"""What a latent's decoder row points at: tokens through the head, and other latents.

Both look at every latent against everything, a block of latents at a time: F V D and F F E
multiplications. Only the few best leave the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.models.decoder import Decoder
from interp_jax.runtime.errors import UserError

BLOCK = 256
_NO_COSINE = -2.0


@dataclasses.dataclass(frozen=True)
class LogitEffects:
    """The tokens that a unit step along each latent's decoder row raises and lowers most.

    The effect on token v is (d / |d|) . (g * W_U[:, v]): the row d of unit length, the gain g of
    the final norm (with its offset), the head's column. The norm's division by the stream's size
    and a soft-cap of the logits are left out, so the numbers compare tokens and latents, and
    become logits only after division by the RMS of a stream. It is the direct path alone: what
    later layers make of the row is not in it.

    Attributes:
        raised, lowered: int32 [F, k], token ids, largest effect first.
        raised_by, lowered_by: float32 [F, k], their effects; NaN for a row of zeros.
    """

    raised: np.ndarray
    raised_by: np.ndarray
    lowered: np.ndarray
    lowered_by: np.ndarray


def logit_effects(network: Decoder, rows, k: int = 10) -> LogitEffects:
    """The direct effect of each decoder row on the logits.

    Args:
        network: whose final norm and head are used.
        rows: float [F, D], written to the network's stream (`Dictionary.written_rows`).
        k: tokens to name on each side.

    Raises:
        UserError: rows of another width than the network's, or more tokens than there are.
    """
    config = network.config
    rows = jnp.asarray(rows, jnp.float32)
    if rows.ndim != 2 or rows.shape[1] != config.width:
        raise UserError(
            found=f"decoder rows of shape {rows.shape}",
            expected=f"[F, {config.width}], the width of the network's stream",
            do="give rows that are written to the stream, or leave logit effects out",
        )
    if not 0 < k <= config.vocab_size:
        raise UserError(
            found=f"k = {k}", expected=f"1 to {config.vocab_size}", do="name fewer tokens"
        )
    norm = network.final_norm
    gain = norm.gain.astype(jnp.float32) + jnp.float32(norm.offset)
    head, spec = (network.embed, "vd") if network.head is None else (network.head, "dv")
    blocks = [_effects(block, gain, head, spec, k) for block in row_blocks(rows, BLOCK)]
    parts = [np.concatenate(part)[: len(rows)] for part in zip(*blocks, strict=True)]
    return LogitEffects(*parts)


def whole_rows(dictionary: Dictionary) -> jax.Array:
    """float32 [F, O*D], a latent's rows for all outputs side by side, as they are written."""
    outs = range(dictionary.config.outs)
    return jnp.concatenate([dictionary.written_rows(output) for output in outs], axis=1)


def nearest_latents(rows, k: int = 8, of=None) -> tuple[np.ndarray, np.ndarray]:
    """The other latents whose rows point the same way, best first.

    Args:
        rows: float [F, E]; of a crosscoder the whole row, see `whole_rows`.
        k: how many; at most F - 1 are given.
        of: int [G], the latents whose neighbours are wanted; None for all, G = F.

    Returns:
        int32 [G, k] and cosines float32 [G, k]; -1 and NaN where there is none: a row of zeros has
        no neighbours and is nobody's.
    """
    rows = jnp.asarray(rows, jnp.float32)
    own = jnp.arange(len(rows), dtype=jnp.int32) if of is None else jnp.asarray(of, jnp.int32)
    k = min(k, len(rows) - 1)
    if k < 1 or not len(own):
        none = (len(own), max(k, 0))
        return np.zeros(none, np.int32), np.zeros(none, np.float32)
    rows, there = unit_rows(rows)
    found = [
        _nearest(block, numbers, rows, there, k)
        for block, numbers in zip(
            row_blocks(rows if of is None else rows[own], BLOCK), row_blocks(own, BLOCK),
            strict=True,
        )
    ]
    index, cosine = (np.concatenate(part)[: len(own)] for part in zip(*found, strict=True))
    # Itself and rows of zeros were given a cosine that none has.
    valid = np.asarray(there[own])[:, None] & (cosine > _NO_COSINE)
    return np.where(valid, index, -1), np.where(valid, cosine, np.nan).astype(np.float32)


def row_blocks(rows: jax.Array, size: int) -> Iterator[jax.Array]:
    """Blocks of one size, so that one program does; the last is filled up with zeros."""
    for begin in range(0, len(rows), size):
        block = rows[begin : begin + size]
        yield jnp.pad(block, ((0, size - len(block)), *((0, 0),) * (rows.ndim - 1)))


def unit_rows(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows [F, D] at length 1, and bool [F]: which could be; a row of zeros stays one."""
    length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / jnp.where(length > 0, length, 1.0), length[:, 0] > 0


@partial(jax.jit, static_argnames=("spec", "k"))
def _top_effects(rows, gain, head, spec: str, k: int):
    rows, there = unit_rows(rows)
    effects = jnp.einsum(
        f"fd,{spec}->fv", rows * gain[None], head.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    raised_by, raised = jax.lax.top_k(effects, k)
    lowered_by, lowered = jax.lax.top_k(-effects, k)
    blank = lambda values: jnp.where(there[:, None], values, jnp.nan)
    return raised, blank(raised_by), lowered, blank(-lowered_by)


def _effects(rows, gain, head, spec: str, k: int):
    return jax.device_get(_top_effects(rows, gain, head, spec, k))


@partial(jax.jit, static_argnames=("k",))
def _top_cosines(block, own, rows, there, k: int):
    cosine = jnp.einsum("bd,fd->bf", block, rows, precision=jax.lax.Precision.HIGHEST)
    every = jnp.arange(rows.shape[0], dtype=jnp.int32)
    out = (every[None] == own[:, None]) | ~there[None]
    best, index = jax.lax.top_k(jnp.where(out, _NO_COSINE, cosine), k)
    return index, best


def _nearest(block, own, rows, there, k: int):
    return jax.device_get(_top_cosines(block, own, rows, there, k))
