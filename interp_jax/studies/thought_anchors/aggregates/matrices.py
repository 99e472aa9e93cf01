"""Do the two sentence-to-sentence matrices agree, beyond both being largest near the diagonal?

Resampling (does keeping a sentence make a later one appear) and attention suppression (does
hiding it change the later one) are correlated by rank over pairs of sentences: all of them and
those within a few sentences, as they are and with the mean at each distance taken out.

The null moves one matrix along its diagonals by a random number of sentences. Every distance
keeps its values and neighbouring pairs stay neighbours, so what the null reaches is due to
locality and smoothness alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from interp_jax.studies.thought_anchors.aggregates.measures import TraceMeasures
from interp_jax.studies.thought_anchors.aggregates.over_traces import (
    OverTraces,
    mean_over_traces,
    paired_test,
)
from interp_jax.studies.thought_anchors.intervals import keyed_generator
from interp_jax.studies.thought_anchors.normalise import (
    distance_profile,
    distance_residual,
    rank_agreement,
)

MATRICES = ("resampling", "suppression")
_TOO_FEW = 5


@dataclass(frozen=True)
class MatrixAgreement:
    """The two matrices over some of their pairs.

    Attributes:
        within: greatest distance in sentences; None for all.
        residual: the mean at each distance is taken out of both.
        over, per_trace, p_t: as in `correlations.Agreement`.
        null_mean, null_high: mean of the shifted null, and its 95 % point.
        p_shifted: share of shifted means at least as large (one-sided, never 0).
    """

    within: int | None
    residual: bool
    over: OverTraces
    per_trace: np.ndarray
    p_t: float
    null_mean: float
    null_high: float
    p_shifted: float


Key = tuple[int | None, bool]
"""Greatest distance (None for all), and whether the mean at each distance is taken out."""


def trace_matrix_agreements(
    trace: TraceMeasures,
    *,
    within: Sequence[int | None] = (None, 5),
    draws: int = 200,
    seed: int = 0,
) -> dict[Key, tuple[float, np.ndarray]]:
    """Agreement of the two matrices of one trace, with `[draws]` shifted ones; empty without both.

    Args:
        trace: its whole matrices count.
        within: greatest distances.
        draws: shifts.
        seed: of the shifts, which depend on the trace's name besides.
    """
    if trace.resampling is None or trace.suppression is None:
        return {}
    found = {}
    for residual in (False, True):
        first, second = (
            distance_residual(m) if residual else m for m in (trace.resampling, trace.suppression)
        )
        for distance in within:
            rho, _ = rank_agreement(first, second, within=distance)
            if np.isfinite(rho):
                rng = keyed_generator(seed, f"shifts of {trace.where.name}", distance or 0)
                null = shifted_agreements(first, second, draws, rng, within=distance)
                found[distance, residual] = rho, null
    return found


def matrix_agreements(
    per_trace: Sequence[Mapping[Key, tuple[float, np.ndarray]]],
) -> list[MatrixAgreement]:
    """Agreement over traces, from what `trace_matrix_agreements` found in each."""
    found = []
    for key in dict.fromkeys(key for one in per_trace for key in one):
        rho = np.asarray([one[key][0] if key in one else np.nan for one in per_trace])
        null = np.mean([one[key][1] for one in per_trace if key in one], axis=0)
        found.append(_summary(*key, rho, null))
    return found


def shifted_agreements(
    first: np.ndarray,
    second: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    *,
    within: int | None = None,
) -> np.ndarray:
    """Rank correlations with `second` moved along its diagonals, float64 `[draws]`.

    A diagonal of n pairs is moved round by the same number of sentences modulo n. Pairs that are
    unknown on a side count as average there.
    """
    size = len(first)
    furthest = size - 1 if within is None else min(within, size - 1)
    rows, columns = np.tril_indices(size, -1)
    near = rows - columns <= furthest
    rows, columns = rows[near], columns[near]
    ranked = np.zeros((2, size, size))
    for place, matrix in enumerate((first, second)):
        ranked[place, rows, columns] = _centred_ranks(matrix[rows, columns])
    # All shifts of a diagonal at once: a circular cross-correlation.
    totals, shifts = np.zeros(size), np.arange(size)
    for distance in range(1, furthest + 1):
        n = size - distance
        a, b = np.fft.rfft(ranked.diagonal(-distance, 1, 2))
        totals += np.fft.irfft(np.conj(a) * b, n)[shifts % n]
    scale = np.linalg.norm(ranked[0]) * np.linalg.norm(ranked[1])
    return totals[rng.integers(1, max(size - 1, 2), draws)] / scale


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    ranks = stats.rankdata(values[known])
    centred = np.zeros(len(values))
    centred[known] = ranks - ranks.mean()
    return centred


def _summary(
    within: int | None, residual: bool, rho: np.ndarray, null: np.ndarray
) -> MatrixAgreement:
    over = mean_over_traces(rho)
    return MatrixAgreement(
        within=within,
        residual=residual,
        over=over,
        per_trace=rho,
        p_t=paired_test(rho, np.zeros_like(rho)).p_t,
        null_mean=float(null.mean()),
        null_high=float(np.quantile(null, 0.95)),
        p_shifted=float((1 + (null >= over.mean - 1e-12).sum()) / (1 + len(null))),
    )


@dataclass(frozen=True)
class DistanceProfile:
    """How a matrix depends on the distance between sentences.

    Attributes:
        traces: that have the matrix.
        distance: int `[D]`, 1, 2, ...
        count: int `[D]`, traces long enough.
        mean, se: over traces, float64 `[D]`; `se` is NaN below two traces.
        within_one, within_five: share of the matrix's total size |M| at distance 1, and up to 5.
        explained: share of its variance that the mean at each distance explains.
    """

    traces: int
    distance: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    within_one: OverTraces
    within_five: OverTraces
    explained: OverTraces


def profile_over_traces(
    traces: Sequence[TraceMeasures], which: str, *, longest: int = 60
) -> DistanceProfile | None:
    """Mean by distance, averaged within each trace first; None if no trace has the matrix.

    Args:
        traces: any.
        which: `resampling` or `suppression`.
        longest: greatest distance.
    """
    matrices = [getattr(t, which) for t in traces if getattr(t, which) is not None]
    if not matrices:
        return None
    profiles = np.full((len(matrices), longest + 1), np.nan)
    for place, matrix in enumerate(matrices):
        own = distance_profile(matrix)[: longest + 1]
        profiles[place, : len(own)] = own
    distances = np.flatnonzero(np.isfinite(profiles).any(0))
    over = [mean_over_traces(profiles[:, d]) for d in distances]
    return DistanceProfile(
        traces=len(matrices),
        distance=distances,
        count=np.asarray([one.traces for one in over]),
        mean=np.asarray([one.mean for one in over]),
        se=np.asarray([one.se for one in over]),
        within_one=mean_over_traces([_share_within(m, 1) for m in matrices]),
        within_five=mean_over_traces([_share_within(m, 5) for m in matrices]),
        explained=mean_over_traces([explained_by_distance(m) for m in matrices]),
    )


def _share_within(matrix: np.ndarray, distance: int) -> float:
    rows, columns = np.nonzero(np.isfinite(matrix))
    size = np.abs(matrix[rows, columns])
    total = float(size.sum())
    return float(size[rows - columns <= distance].sum()) / total if total else float("nan")


def explained_by_distance(matrix: np.ndarray) -> float:
    """Adjusted share of a matrix's variance that its mean at each distance explains."""
    rows, columns = np.nonzero(np.isfinite(matrix))
    values, gap = matrix[rows, columns], rows - columns
    groups = len(np.unique(gap))
    total = np.square(values - values.mean()).sum()
    if len(values) <= groups + _TOO_FEW or total == 0:
        return float("nan")
    left = np.square(values - distance_profile(matrix)[gap]).sum()
    return float(1 - (left / (len(values) - groups)) / (total / (len(values) - 1)))
