"""Do the methods agree on which sentences matter? Rank correlations per trace, then over traces.

Each pair of measures is correlated over the sentences of a trace, plainly and with the obvious
explanations taken out: position in the trace, headroom (the entropy of the answers before the
sentence: late sentences have nothing left to move), and both. Beside each mean over traces
stands what shuffling the sentences within every trace gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_jax.studies.thought_anchors.aggregates.categories import CategoryChoices
from interp_jax.studies.thought_anchors.aggregates.measures import TraceMeasures
from interp_jax.studies.thought_anchors.aggregates.over_traces import (
    OverTraces,
    mean_over_traces,
    paired_test,
)
from interp_jax.studies.thought_anchors.aggregates.partial_ranks import (
    residual_sides,
    shuffles,
)
from interp_jax.studies.thought_anchors.intervals import keyed_generator

COMPARED = (
    "resampling_importance_kl",
    "resampling_importance_accuracy",
    "counterfactual_importance_kl",
    "counterfactual_importance_accuracy",
    "forced_importance_kl",
    "outgoing",
    "incoming",
    "suppression",
    "suppression_residual",
    "receiver",
)
"""Measures that are compared with one another, those that the traces have."""

CONTROLS: dict[str, tuple[str, ...]] = {
    "raw": (),
    "position": ("position",),
    "headroom": ("headroom",),
    "position and headroom": ("position", "headroom"),
}
"""What is taken out before correlating."""


@dataclass(frozen=True)
class Agreement:
    """One pair of measures under one control.

    Attributes:
        first, second: measures.
        control: key of `CONTROLS`.
        over: mean correlation over traces, with its error.
        per_trace: float64 `[traces]`; NaN where a trace gives none.
        p_t: t test of the mean against 0; NaN below two traces.
        null_high: 95 % of shuffled means are smaller in size.
        p_shuffled: share of shuffled means at least as large in size (never 0).
    """

    first: str
    second: str
    control: str
    over: OverTraces
    per_trace: np.ndarray
    p_t: float
    null_high: float
    p_shuffled: float


@dataclass(frozen=True)
class TraceAgreement:
    """One pair under one control in one trace: the correlation, and `[draws]` shuffled ones."""

    rho: float
    shuffled: np.ndarray


Key = tuple[str, str, str]
"""First measure, second measure, control."""


def trace_agreements(
    trace: TraceMeasures,
    choices: CategoryChoices | None = None,
    *,
    compared: Sequence[str] = COMPARED,
    draws: int = 500,
    seed: int = 0,
) -> dict[Key, TraceAgreement]:
    """Correlations of the pairs of measures that one trace has, under all controls.

    Args:
        trace: its sentences before convergence count.
        choices: which sentences count (convergence, excluded tags); averaging does not matter.
        compared: measures.
        draws: shuffles, which depend on the trace's name and the seed, not on other traces.
        seed: of the shuffles.
    """
    kept = (choices or CategoryChoices()).kept(trace)
    orders: dict[int, np.ndarray] = {}
    found = {}
    for first, second in itertools.combinations([m for m in compared if m in trace.values], 2):
        chosen = np.where(kept, trace.values[first], np.nan)
        for control, names in CONTROLS.items():
            others = [covariate(trace, name) for name in names]
            sides, count = residual_sides(chosen, trace.values[second], others)
            if sides is None:
                continue
            if count not in orders:
                rng = keyed_generator(seed, f"shuffled sentences of {trace.where.name}", count)
                orders[count] = shuffles(count, draws, rng)
            rho = float(np.clip(sides[0] @ sides[1], -1.0, 1.0))
            found[first, second, control] = TraceAgreement(rho, sides[1][orders[count]] @ sides[0])
    return found


def method_agreements(per_trace: Sequence[Mapping[Key, TraceAgreement]]) -> list[Agreement]:
    """Correlations over traces, from what `trace_agreements` found in each.

    A pair that no trace has is absent.
    """
    keys = dict.fromkeys(key for found in per_trace for key in found)
    agreements = []
    for key in keys:
        rho = np.asarray([f[key].rho if key in f else np.nan for f in per_trace])
        null = np.mean([f[key].shuffled for f in per_trace if key in f], axis=0)
        agreements.append(_agreement(*key, rho, null))
    return agreements


def covariate(trace: TraceMeasures, name: str) -> np.ndarray:
    """`position` (0 to S - 1) or `headroom` (nats) of each sentence, float64 `[S]`."""
    return np.arange(len(trace), dtype=np.float64) if name == "position" else trace.headroom


def _agreement(
    first: str, second: str, control: str, rho: np.ndarray, null: np.ndarray
) -> Agreement:
    over = mean_over_traces(rho)
    size = np.abs(null)
    return Agreement(
        first=first,
        second=second,
        control=control,
        over=over,
        per_trace=rho,
        p_t=paired_test(rho, np.zeros_like(rho)).p_t,
        null_high=float(np.quantile(size, 0.95)),
        p_shuffled=float((1 + (size >= abs(over.mean) - 1e-12).sum()) / (1 + len(null))),
    )
