"""A batch of codes as active (token, latent) pairs on the host, and the peak of each passage.

A passage is the stretch of one document in one row. At 100 active latents of 50,000 a code is
zero at 99.8 % of its entries, so only the active ones leave the device, and they are sorted once:
by latent, then by place. All that follows is arithmetic on neighbours in that order.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime.errors import UserError


class Pairs(NamedTuple):
    """The active pairs of one batch, sorted by latent, then by place. P of them.

    Attributes:
        latent: int64 [P].
        place: int64 [P], row * T + column.
        value: float32 [P], above 0.
    """

    latent: np.ndarray
    place: np.ndarray
    value: np.ndarray


class Peaks(NamedTuple):
    """The strongest place of each latent in each passage where it is active. C of them.

    Attributes:
        pair: int64 [C], index into the pairs; of equal values the first place.
        latent: int64 [C].
        place: int64 [C].
        value: float32 [C].
        document: int64 [C].
    """

    pair: np.ndarray
    latent: np.ndarray
    place: np.ndarray
    value: np.ndarray
    document: np.ndarray


def pairs_of(code, shape: tuple[int, int], latents: int, counted: np.ndarray) -> Pairs:
    """The pairs of a code, in either form, at the tokens that count.

    Args:
        code: [B, T, F], on a device or the host, or (indices int [B, T, k], values [B, T, k]);
            a value of 0 or less is padding there, whatever its index.
        shape: (B, T).
        latents: F.
        counted: bool [B, T].

    Raises:
        UserError: another shape, an index outside 0..F-1, one latent twice at a token, or a value
            that is not a finite number.
    """
    if isinstance(code, tuple):
        indices, values = code
        if np.shape(indices) != np.shape(values) or np.shape(indices)[:2] != shape:
            raise _shape(f"indices {np.shape(indices)} and values {np.shape(values)}", shape, "k")
        if np.ndim(indices) != 3:
            raise _shape(f"indices {np.shape(indices)}", shape, "k")
    else:
        if np.shape(code) != (*shape, latents):
            raise _shape(f"a code {np.shape(code)}", shape, str(latents))
        indices, values = _compact(code)
    indices, values = np.asarray(indices), np.asarray(values, np.float32)
    width = indices.shape[-1]
    flat = values.reshape(-1, width)
    live = (flat > 0) & counted.reshape(-1, 1)
    if not np.isfinite(flat[counted.reshape(-1)]).all():
        raise UserError(
            found="a value of a code that is not a finite number",
            expected="finite activations at every token that counts",
            do="look for NaN in the activations, or leave those tokens out",
        )
    token, slot = np.nonzero(live)
    latent = indices.reshape(-1, width)[token, slot].astype(np.int64)
    if latent.size and (latent.min() < 0 or latent.max() >= latents):
        raise UserError(
            found=f"latents from {latent.min()} to {latent.max()} in a code",
            expected=f"numbers from 0 to {latents - 1}",
            do="give the code of the dictionary that the collection was started for",
        )
    order = np.argsort(latent * live.shape[0] + token, kind="stable")
    pairs = Pairs(latent[order], token[order].astype(np.int64), flat[token, slot][order])
    twice = (np.diff(pairs.latent) == 0) & (np.diff(pairs.place) == 0)
    if twice.any():
        raise UserError(
            found=f"latent {pairs.latent[:-1][twice][0]} twice at one token",
            expected="each latent once",
            do="give the k largest entries of each token's code",
        )
    return pairs


def _shape(found: str, shape: tuple[int, int], last: str) -> UserError:
    return UserError(
        found=f"{found} beside tokens {shape}",
        expected=f"[{shape[0]}, {shape[1]}, {last}]",
        do="give code and tokens of the same batch",
    )


def _compact(code) -> tuple[np.ndarray, np.ndarray]:
    """[B, T, F] -> (indices, values) [B, T, C], nothing left out.

    C is the largest number of active latents at a token, rounded up to a power of two so that
    few programs are compiled.
    """
    if isinstance(code, np.ndarray):
        code = np.where(np.isnan(code), np.inf, code)  # told of later, as not finite
        width = max(int((code > 0).sum(-1).max(initial=0)), 1)
        indices = np.argpartition(-code, width - 1, axis=-1)[..., :width]
        return indices, np.take_along_axis(code, indices, -1)
    most = int(_most_active(code))
    width = min(1 << max(most - 1, 0).bit_length(), code.shape[-1])
    indices, values = jax.device_get(_largest(code, width))
    return indices, values


@jax.jit
def _most_active(code: jax.Array) -> jax.Array:
    # NaN counts as active, so that it is brought to the host and told of there.
    return jnp.max(jnp.sum(~(code <= 0), axis=-1, dtype=jnp.int32))


@partial(jax.jit, static_argnames=("width",))
def _largest(code: jax.Array, width: int):
    values, indices = jax.lax.top_k(code.astype(jnp.float32), width)
    return indices, values


def peaks_of(pairs: Pairs, documents: np.ndarray) -> Peaks:
    """The peak of every (latent, passage).

    Args:
        pairs: sorted.
        documents: int64 [B, T].
    """
    if not pairs.latent.size:
        none = np.zeros(0, np.int64)
        return Peaks(none, none, none, pairs.value, none)
    width = documents.shape[1]
    document = documents.reshape(-1)[pairs.place]
    row = pairs.place // width
    # A document in a row is one stretch, so within a latent its pairs are neighbours.
    new = np.ones(len(row), bool)
    new[1:] = (
        (np.diff(pairs.latent) != 0) | (np.diff(row) != 0) | (np.diff(document) != 0)
    )
    starts = np.flatnonzero(new)
    highest = np.maximum.reduceat(pairs.value, starts)
    stretch = np.cumsum(new) - 1
    at = np.flatnonzero(pairs.value == highest[stretch])
    first = at[np.unique(stretch[at], return_index=True)[1]]
    return Peaks(
        first, pairs.latent[first], pairs.place[first], pairs.value[first], document[first]
    )


def windows_of(
    pairs: Pairs, peaks: Peaks, tokens: np.ndarray, documents: np.ndarray, before: int, after: int
) -> tuple[np.ndarray, np.ndarray]:
    """What stands around each peak, within its document and row.

    Args:
        pairs, peaks: of this batch; C peaks.
        tokens: int32 [B, T].
        documents: int64 [B, T].
        before, after: tokens to each side; W = before + 1 + after.

    Returns:
        tokens int32 [C, W], -1 where the document has none, and the latent's own activations
        float32 [C, W], 0 where it is not active. The peak stands at index `before`.
    """
    width = tokens.shape[1]
    offsets = np.arange(-before, after + 1)
    place = peaks.place[:, None] + offsets
    column = (peaks.place % width)[:, None] + offsets
    inside = (column >= 0) & (column < width)
    place = np.where(inside, place, 0)
    inside &= documents.reshape(-1)[place] == peaks.document[:, None]
    words = np.where(inside, tokens.reshape(-1)[place], -1).astype(np.int32)
    # Between a pair and one W tokens away lie at most W others of the same latent.
    near = np.clip(peaks.pair[:, None] + offsets, 0, len(pairs.latent) - 1)
    shift = pairs.place[near] - peaks.place[:, None]
    # At the ends, clipping names one pair several times; it writes the same value.
    same = (pairs.latent[near] == peaks.latent[:, None]) & (shift >= -before) & (shift <= after)
    peak, which = np.nonzero(same)
    activations = np.zeros(words.shape, np.float32)
    activations[peak, shift[peak, which] + before] = pairs.value[near[peak, which]]
    return words, np.where(inside, activations, 0.0).astype(np.float32)
