"""Numbers for documents, made from what they say.

The same text has the same number wherever it comes from, so a text that a data set holds twice is
one document, and what is kept of it does not depend on the order of the data.
"""

from __future__ import annotations

import numpy as np

from interp_jax.dictionaries.examples_keep import mixed


def document_ids(
    tokens: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    ends: int | None = None,
    starts: int | None = None,
) -> np.ndarray:
    """A number for each document part in rows of tokens.

    Args:
        tokens: int [B, T].
        valid: bool [B, T]; None when every token is a row's own.
        ends: id of a token after which another document begins in packed rows (an EOS); None
            when a row is one document.
        starts: id of a token that begins a document (a BOS).

    Returns:
        int64 [B, T], 0 to 2^63 - 1, equal along a document's part in a row; -1 where not valid.
    """
    tokens = np.asarray(tokens)
    valid = np.ones(tokens.shape, bool) if valid is None else np.asarray(valid)
    begins = np.zeros(tokens.shape, bool)
    begins[:, 0] = True
    if ends is not None:
        begins[:, 1:] |= (tokens[:, :-1] == ends) & valid[:, :-1]
    if starts is not None:
        begins |= (tokens == starts) & valid
    return np.where(valid, stretch_numbers(tokens, valid, begins), -1)


def stretch_numbers(tokens: np.ndarray, valid: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """int64 [B, T], not negative: of each stretch, made from its valid tokens and their order.

    Args:
        tokens: int [B, T].
        valid: bool [B, T].
        begins: bool [B, T], where stretches begin; the first column does.
    """
    stretch = np.cumsum(begins.reshape(-1)) - 1
    first = np.flatnonzero(begins.reshape(-1))
    before = np.cumsum(valid.reshape(-1)) - valid.reshape(-1)
    place = before - before[first][stretch]
    stirred = mixed(tokens.reshape(-1).astype(np.int64), place)
    stirred = np.where(valid.reshape(-1), stirred, np.uint64(0))
    total = np.add.reduceat(stirred, first)  # wraps around; the order is in `place`
    return (mixed(total) >> np.uint64(1)).astype(np.int64)[stretch].reshape(tokens.shape)
