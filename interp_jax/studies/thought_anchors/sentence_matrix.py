"""Sentence-to-sentence importance by resampling: which sentence makes which later one appear.

    match(r, j) = 1 if any sentence of rollout r has cosine >= tau with S_j
    R[k, j]     = mean over rollouts r stored at k
    M[i, j]     = R[i + 1, j] - R[i, j]        for j > i: S_i kept minus S_i removed

(arXiv 2506.19143, sentence-to-sentence importance.) Every distinct sentence is embedded once and
compared with the whole trace in one matrix product; the rest is counting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.studies.thought_anchors.intervals import newcombe_interval
from interp_jax.text.sentences import split_sentences

_CHUNK = 2048


@dataclass(frozen=True)
class SentenceMatrix:
    """M and the counts it comes from.

    Attributes:
        matrix: float64 `[S, S]`, source by target, in [-1, 1]; NaN where the target is not after
            the source or where rollouts are missing on a side.
        low, high: Newcombe interval of each cell, NaN in the same places.
        matches: int `[K, S]`: rollouts of index k that contain a match of S_j.
        rollouts: int `[K]`: rollouts of index k.
    """

    matrix: np.ndarray
    low: np.ndarray
    high: np.ndarray
    matches: np.ndarray
    rollouts: np.ndarray


def sentence_matrix(
    sentences: Sequence[str],
    rollouts: Mapping[int, Sequence[str]],
    encode: Callable[[Sequence[str]], np.ndarray],
    *,
    threshold: float = 0.8,
    confidence: float = 0.95,
) -> SentenceMatrix:
    """M of a trace.

    Args:
        sentences: texts S_0 ... S_{N-1}.
        rollouts: continuations (without the prefix) by index; index N is allowed.
        encode: texts to unit vectors float32 `[n, D]`, such as `SentenceEncoder.encode`.
        threshold: tau; the paper's code uses 0.8, 0.7 and 0.5 in different places.
        confidence: of the intervals.
    """
    size = len(sentences)
    height = size + 1
    texts: dict[str, int] = {}
    counts = np.zeros(height, np.int64)
    pieces: dict[int, list[np.ndarray]] = {}
    for index, continuations in rollouts.items():
        if not 0 <= index < height:
            continue
        counts[index] = len(continuations)
        pieces[index] = [
            np.asarray([texts.setdefault(s.text, len(texts)) for s in split_sentences(text)], int)
            for text in continuations
        ]
    matches = np.zeros((height, size), np.int64)
    if texts and size:
        vectors = encode([*sentences, *texts])
        hits = sentence_hits(vectors[:size], vectors[size:], threshold)
        for index, rows in pieces.items():
            filled = [hits[row].any(axis=0) for row in rows if row.size]
            matches[index] = np.sum(filled, axis=0) if filled else 0
    return matrix_from_matches(matches, counts, confidence)


def sentence_hits(trace: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Which sentences match which sentences of the trace.

    Args:
        trace: unit vectors float32 `[S, D]`.
        others: unit vectors float32 `[U, D]`.
        threshold: cosine from which a pair matches.

    Returns:
        bool `[U, S]`.
    """
    hits = np.zeros((len(others), len(trace)), bool)
    for start in range(0, len(others), _CHUNK):
        part = others[start : start + _CHUNK]
        # One shape, so one compilation, however many sentences there are.
        padded = np.zeros((_CHUNK, others.shape[1]), np.float32)
        padded[: len(part)] = part
        found = _at_least(padded, np.asarray(trace, np.float32), np.float32(threshold))
        hits[start : start + len(part)] = np.asarray(found)[: len(part)]
    return hits


@jax.jit
def _at_least(left: jax.Array, right: jax.Array, threshold: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        # Rounding must not carry a cosine out of [-1, 1], past a threshold at its end.
        return jnp.clip(jnp.einsum("ud,sd->us", left, right), -1.0, 1.0) >= threshold


def matrix_from_matches(
    matches: np.ndarray, rollouts: np.ndarray, confidence: float = 0.95
) -> SentenceMatrix:
    """M from counts.

    Args:
        matches: int `[K, S]`: rollouts of index k with a match of S_j.
        rollouts: int `[K]`.
        confidence: of the intervals.
    """
    matches, rollouts = np.asarray(matches, np.int64), np.asarray(rollouts, np.int64)
    size = matches.shape[1]
    kept, removed = np.arange(1, size + 1), np.arange(size)
    inside = kept < len(rollouts)
    kept = np.where(inside, kept, 0)
    n_kept = np.where(inside, rollouts[kept], 0)[:, None]
    n_removed = rollouts[removed][:, None]
    rate_kept = matches[kept] / np.maximum(n_kept, 1)
    rate_removed = matches[removed] / np.maximum(n_removed, 1)
    low, high = newcombe_interval(
        matches[kept],
        np.broadcast_to(n_kept, matches[kept].shape),
        matches[removed],
        np.broadcast_to(n_removed, matches[removed].shape),
        confidence,
    )
    later = np.arange(size)[None, :] > np.arange(size)[:, None]
    defined = later & (n_kept > 0) & (n_removed > 0)
    matrix, low, high = (
        np.where(defined, values, np.nan) for values in (rate_kept - rate_removed, low, high)
    )
    return SentenceMatrix(matrix, low, high, matches, rollouts)


def outgoing(matrix: np.ndarray) -> np.ndarray:
    """Mean of M over the later sentences of each source, `[S]`; NaN where there is none."""
    return _mean(matrix, 1)


def incoming(matrix: np.ndarray) -> np.ndarray:
    """Mean of M over the earlier sentences of each target, `[S]`; NaN where there is none."""
    return _mean(matrix, 0)


def _mean(matrix: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(matrix)
    count = known.sum(axis)
    total = np.where(known, matrix, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
