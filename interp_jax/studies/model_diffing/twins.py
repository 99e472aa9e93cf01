"""Twins: a chat-only and a base-only latent that point the same way, and where each fires.

arXiv 2504.02922 pairs latents whose decoder directions have a cosine above 0.9. Twins that fire at
the same tokens are one concept in two halves, each written for one model alone; twins that fire in
different contexts put one direction to two uses. For each pair, over held-out tokens: a table of
how strong the one is against how strong the other is, and from it the divergence.

Which rows are compared is our choice, since the paper does not say: the chat-only latent's row for
the chat model with the base-only latent's row for the base model, both in the space of the
activations. These are the rows that the latents write with; of each latent the row for the other
model is less than a fifth as long, by the definition of its class.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.delta import classes
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing import template_tokens
from interp_jax.studies.model_diffing.bootstrap import divide
from interp_jax.studies.model_diffing.dashboard.directions import row_blocks, unit_rows

COSINE = 0.9
EDGES = (1e-6, *template_tokens.EDGES)
"""Shares of a latent's maximum at which the next bucket begins. Bucket 0 is what lies below 1e-6 of
it, silence; bucket 4, the top one, is 0.7 of it and above."""
BUCKETS = len(EDGES) + 1
BLOCK = 1024
_PAIRS_AT_ONCE = 64


class Twins(NamedTuple):
    """P pairs, by the number of the chat-only latent and then of the base-only one.

    A latent may be in several pairs.

    Attributes:
        chat, base: int64 [P], the chat-only and the base-only latent.
        cosine: float32 [P], of their decoder directions.
        joint: int32 [P, 5, 5], tokens by bucket of the chat-only latent (rows) and of the base-only
            one (columns).
    """

    chat: np.ndarray
    base: np.ndarray
    cosine: np.ndarray
    joint: jax.Array | np.ndarray

    @property
    def strong(self) -> np.ndarray:
        """int64 [P], tokens at which one of the two or both are in the top bucket."""
        joint = np.asarray(self.joint, np.int64)
        return joint[:, -1].sum(-1) + joint[:, :, -1].sum(-1) - joint[:, -1, -1]

    @property
    def divergence(self) -> np.ndarray:
        """float64 [P]: of the tokens of `strong`, the share at which exactly one of the two is in
        the top bucket. 0: always both; 1: never both; NaN: there is no such token.

        The released plots cut elsewhere: one above 0.4 of its maximum with the other at most at
        0.1, over tokens with either above 0.4. `joint` holds what that takes.
        """
        strong = self.strong
        return divide(strong - np.asarray(self.joint, np.int64)[:, -1, -1], strong)


def twin_pairs(
    dictionary: Dictionary, delta: np.ndarray, alive: np.ndarray, *, base: int, chat: int,
    threshold: float = COSINE,
) -> Twins:
    """All twins among the latents that are alive, before the first token.

    A latent that never fires has no maximum to take shares of, and no tokens.

    Args:
        dictionary: of both models.
        delta: float [F], the paper's Delta, by which latents have their class.
        alive: bool [F].
        base, chat: outputs of the dictionary.
        threshold: the cosine of a pair lies above it.

    Raises:
        UserError: a threshold that is not in [0, 1).
    """
    found = classes(jnp.asarray(delta, jnp.float32))
    own, other = (
        np.flatnonzero(np.asarray(mask) & np.asarray(alive, bool))
        for mask in (found.chat_only, found.base_only)
    )
    rows, columns, cosine = cosines_above(
        _written(dictionary, own, chat), _written(dictionary, other, base), threshold
    )
    return Twins(
        own[rows], other[columns], cosine, jnp.zeros((len(rows), BUCKETS, BUCKETS), jnp.int32)
    )


def _written(dictionary: Dictionary, latents: np.ndarray, output: int) -> jax.Array:
    """float32 [P, D]: the rows of these latents for one output."""
    if not len(latents):
        return jnp.zeros((0, dictionary.config.out_width), jnp.float32)
    return dictionary.narrowed(jnp.asarray(latents, jnp.int32)).written_rows(output)


def cosines_above(
    rows: jax.Array, others: jax.Array, threshold: float, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of rows whose cosine lies above a threshold, a block of each table at a time.

    Args:
        rows: float32 [A, D]. others: float32 [B, D]. A row of zeros is in no pair.
        threshold: at least 0 and below 1.
        block: rows of each table of which all cosines are held at once.

    Returns:
        int64 [P], number in `rows`; int64 [P], number in `others`; float32 [P], the cosine; by
        the first number and then by the second.

    Raises:
        UserError: a threshold that is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise UserError(
            found=f"a threshold of {threshold} for the cosine of twins",
            expected="at least 0 and below 1", do="correct the threshold",
        )
    first, second, cosine = [], [], []
    for i, part in enumerate(row_blocks(rows, block)):
        for j, other in enumerate(row_blocks(others, block)):
            of = jax.device_get(_cosines(part, other))
            a, b = np.nonzero(of > threshold)
            first.append(a + i * block)
            second.append(b + j * block)
            cosine.append(of[a, b])
    if not first:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    a, b = np.concatenate(first), np.concatenate(second)
    order = np.lexsort((b, a))
    return a[order], b[order], np.concatenate(cosine)[order]


@jax.jit
def _cosines(rows: jax.Array, others: jax.Array) -> jax.Array:
    """float32 [A, B]; 0 for a row of zeros."""
    (a, _), (b, _) = unit_rows(rows), unit_rows(others)
    return jnp.einsum("ad,bd->ab", a, b, precision=jax.lax.Precision.HIGHEST)


def add_joint(twins: Twins, scaled: jax.Array, keep: jax.Array, maxima: jax.Array) -> Twins:
    """With the tokens of one more batch, BOS among them where it is kept.

    Args:
        scaled: float32 [N, F], the scaled code f*s.
        keep: bool [N], the tokens that are counted.
        maxima: float32 [F], of each latent, above 0 for those of a pair. What lies above it, on
            other tokens than those it was taken from, is in the top bucket.
    """
    if not len(twins.chat):
        return twins
    pairs = jnp.asarray(np.stack([twins.chat, twins.base], axis=1), jnp.int32)
    return twins._replace(joint=twins.joint + _joint(scaled, keep, maxima, pairs))


@jax.jit
def _joint(scaled: jax.Array, keep: jax.Array, maxima: jax.Array, pairs: jax.Array) -> jax.Array:
    """int32 [P, 5, 5] of one batch, for pairs int32 [P, 2]."""

    def one(pair):
        bucket = template_tokens.strength(scaled[:, pair], maxima[pair][None], EDGES)
        chat, base = (jax.nn.one_hot(bucket[:, k], BUCKETS, dtype=jnp.float32) for k in (0, 1))
        # Sums of at most N ones are exact in float32.
        return jnp.einsum("na,nb->ab", chat * keep.astype(jnp.float32)[:, None], base)

    sums = jax.lax.map(one, pairs, batch_size=_PAIRS_AT_ONCE)
    return jnp.round(sums).astype(jnp.int32)
