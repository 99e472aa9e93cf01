"""Receiver heads: attention heads that keep looking back at few sentences (arXiv 2506.19143).

From sentence-averaged attention M[..., i, j] (query sentence i, key sentence j):

    vertical score   v(j) = mean of M[i, j] over i >= j + P; the last P sentences are NaN
    kurtosis         k = m4 / m2**2 - 3 of v over its non-NaN sentences, mean over traces
    receiver heads   the K heads with the largest k
    receiver score   of sentence j: mean of v(j) over those heads
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from interp_jax.runtime.errors import UserError

PROXIMITY = 4
"""P of the released scripts (August 2025); the library default there is 20, later scripts 16."""

TOP_HEADS = 20
"""K of the same scripts; later 16 and 32."""

SKIP_LAYERS = (0,)
"""Layers whose heads are never selected: the first one attends by token, not by meaning."""

MINIMUM_SENTENCES = 20
"""Below this many sentences a kurtosis over sentences says nothing; reports then show none."""


def averaging_weights(ranges: np.ndarray, tokens: int) -> np.ndarray:
    """Matrix that averages over the tokens of each sentence, float32 `[S, T]`.

    Args:
        ranges: int `[S, 2]`, half-open token ranges; an empty one gives a row of zeros.
        tokens: T.
    """
    ranges = np.asarray(ranges)
    place = np.arange(tokens)[None, :]
    inside = (place >= ranges[:, :1]) & (place < ranges[:, 1:])
    return (inside / np.maximum(inside.sum(1, keepdims=True), 1)).astype(np.float32)


def sentence_average(attention: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Mean attention between sentences, `[..., S, S]`, of full attention `[..., T, T]`.

    All cells of a block count, the empty upper triangle of the diagonal blocks included. For
    small inputs and tests; a forward pass reduces block by block and never holds `[T, T]`.
    """
    weights = averaging_weights(ranges, np.shape(attention)[-1]).astype(np.float64)
    return weights @ np.asarray(attention, np.float64) @ weights.T


def vertical_scores(
    matrix: np.ndarray,
    *,
    proximity: int = PROXIMITY,
    control_depth: bool = False,
    statistic: Literal["mean", "median"] = "mean",
) -> np.ndarray:
    """How much later sentences look at each sentence.

    Args:
        matrix: `[..., S, S]`, query sentence by key sentence; any leading axes (layers, heads).
        proximity: P, at least 0; only sentences at distance P or more count.
        control_depth: first replace each entry by its rank within its row among the entries at
            distance >= P (ties share their mean rank), divided by the number of such entries.
        statistic: mean (the paper's) or median over later sentences.

    Returns:
        float64 `[..., S]`; the last P sentences are NaN.
    """
    if proximity < 0:
        raise UserError(
            found=f"proximity {proximity}", expected="0 or more", do="give a distance in sentences"
        )
    matrix = np.asarray(matrix)
    size = matrix.shape[-1]
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    far = distance >= proximity
    if control_depth:
        matrix = _ranks(matrix, proximity)
    scores = np.full(matrix.shape[:-1], np.nan)
    if statistic == "median":
        for target in range(max(size - proximity, 0)):
            scores[..., target] = np.median(matrix[..., target + proximity :, target], axis=-1)
        return scores
    counted = max(size - proximity, 0)
    totals = np.sum(matrix, axis=-2, where=far, dtype=np.float64)
    scores[..., :counted] = totals[..., :counted] / far.sum(0)[:counted]
    return scores


def _ranks(matrix: np.ndarray, proximity: int) -> np.ndarray:
    ranked = np.zeros(matrix.shape, np.float64)
    for row in range(proximity, matrix.shape[-1]):
        count = row - proximity + 1
        ranked[..., row, :count] = stats.rankdata(matrix[..., row, :count], axis=-1) / count
    return ranked


def head_kurtosis(scores: np.ndarray) -> np.ndarray:
    """Excess (Fisher), biased kurtosis over sentences, NaN entries left out.

    Args:
        scores: `[..., S]`.

    Returns:
        float64 `[...]`; NaN for constant scores (to rounding) or fewer than two of them.
    """
    scores = np.asarray(scores, np.float64)
    known = np.isfinite(scores)
    count = known.sum(-1)
    safe = np.maximum(count, 1)
    values = np.where(known, scores, 0.0)
    mean = values.sum(-1) / safe
    centred = np.where(known, scores - mean[..., None], 0.0)
    second = np.square(centred).sum(-1) / safe
    fourth = np.square(np.square(centred)).sum(-1) / safe
    largest = np.abs(values).max(-1, initial=0.0)
    # The variance of equal numbers is rounding of their mean, not exactly zero.
    constant = second <= np.square(1e-12 * largest)
    defined = (count >= 2) & ~constant
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(defined, fourth / np.square(second) - 3.0, np.nan)


def mean_kurtosis(kurtosis: np.ndarray) -> np.ndarray:
    """Mean over traces, `[traces, L, H] -> [L, H]`, leaving out NaN; NaN where all are."""
    known = np.isfinite(kurtosis)
    total = np.where(known, kurtosis, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def select_receiver_heads(
    kurtosis: np.ndarray, top: int = TOP_HEADS, *, skip_layers: Sequence[int] = SKIP_LAYERS
) -> list[tuple[int, int]]:
    """The heads with the largest kurtosis, best first; ties go to the earlier layer and head.

    Args:
        kurtosis: `[L, H]`; NaN is never selected.
        top: K.
        skip_layers: layers left out.

    Returns:
        K pairs of layer and head.

    Raises:
        UserError: fewer than K heads have a kurtosis.
    """
    ranked = np.array(kurtosis, np.float64)
    ranked[[layer for layer in skip_layers if layer < len(ranked)]] = np.nan
    order = np.argsort(-ranked.ravel(), kind="stable")
    available = int(np.isfinite(ranked).sum())
    if not 1 <= top <= available:
        raise UserError(
            found=f"{top} receiver heads asked of {available} that have a kurtosis",
            expected=f"between 1 and {available}",
            do="ask for fewer heads, or give a longer trace or a model with more layers",
        )
    return [divmod(int(place), ranked.shape[1]) for place in order[:top]]


def receiver_scores(scores: np.ndarray, heads: Sequence[tuple[int, int]]) -> np.ndarray:
    """Receiver score of each sentence: mean vertical score over heads, `[L, H, S] -> [S]`."""
    layers, numbers = zip(*heads, strict=True)
    return np.asarray(scores, np.float64)[list(layers), list(numbers)].mean(0)


def split_half_reliability(
    kurtosis: np.ndarray, *, skip_layers: Sequence[int] = SKIP_LAYERS
) -> float:
    """Pearson correlation over heads of mean kurtosis on even and on odd traces.

    Args:
        kurtosis: `[traces, L, H]`, two traces or more.
        skip_layers: layers left out.
    """
    layers = [layer for layer in range(kurtosis.shape[1]) if layer not in set(skip_layers)]
    halves = [mean_kurtosis(kurtosis[start::2])[layers].ravel() for start in (0, 1)]
    known = np.isfinite(halves[0]) & np.isfinite(halves[1])
    return float(np.corrcoef(halves[0][known], halves[1][known])[0, 1])


def head_agreement(scores: np.ndarray, heads: Sequence[tuple[int, int]]) -> float:
    """Mean pairwise Pearson correlation of the vertical scores of heads, NaN sentences left out."""
    layers, numbers = zip(*heads, strict=True)
    chosen = np.asarray(scores, np.float64)[list(layers), list(numbers)]
    chosen = chosen[:, np.isfinite(chosen).all(0)]
    pairs = np.triu_indices(len(heads), k=1)
    return float(np.mean(np.corrcoef(chosen)[pairs]))
