"""What explains a measure of importance: headroom, position, or the kind of sentence?

Re-analyses found that the entropy of the answers before a sentence (its headroom: how much there
is left to move) explains importance far better than its position or its category. Here each is
fitted to the ranks of a measure within every trace; the share of variance it explains is
adjusted for the number of parameters, so that a covariate that says nothing gets 0 on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from interp_jax.studies.thought_anchors.aggregates.categories import CategoryChoices
from interp_jax.studies.thought_anchors.aggregates.correlations import covariate
from interp_jax.studies.thought_anchors.aggregates.measures import TraceMeasures
from interp_jax.studies.thought_anchors.aggregates.over_traces import OverTraces, mean_over_traces

EXPLANATIONS = ("headroom", "position", "tag", "tag beyond headroom and position")


@dataclass(frozen=True)
class Explained:
    """Adjusted R2 over traces of each of `EXPLANATIONS`, for one measure."""

    measure: str
    over: Mapping[str, OverTraces]


def explain(
    traces: Sequence[TraceMeasures], measure: str, choices: CategoryChoices | None = None
) -> Explained | None:
    """What explains one measure; None if no trace has it with enough sentences.

    Args:
        traces: any.
        measure: key of `MEASURES`.
        choices: which sentences count.
    """
    choices = choices or CategoryChoices()
    shares: dict[str, list[float]] = {name: [] for name in EXPLANATIONS}
    for trace in traces:
        if measure not in trace.values:
            continue
        kept = choices.kept(trace) & np.isfinite(trace.values[measure])
        kept &= np.isfinite(trace.headroom)
        y = stats.rankdata(trace.values[measure][kept])
        columns = {
            name: stats.rankdata(covariate(trace, name)[kept])[:, None]
            for name in ("headroom", "position")
        }
        columns["tag"] = _one_hot([tags for tags, k in zip(trace.tags, kept, strict=True) if k])
        for name in ("headroom", "position", "tag"):
            shares[name].append(adjusted_r2(y, columns[name]))
        controls = np.concatenate([columns["headroom"], columns["position"]], axis=1)
        everything = np.concatenate([controls, columns["tag"]], axis=1)
        shares[EXPLANATIONS[-1]].append(adjusted_r2(y, everything) - adjusted_r2(y, controls))
    over = {name: mean_over_traces(values) for name, values in shares.items()}
    return Explained(measure, over) if any(one.traces for one in over.values()) else None


def _one_hot(tags: Sequence[tuple[str, ...]]) -> np.ndarray:
    names = sorted({tag for own in tags for tag in own})
    return np.asarray([[float(name in own) for name in names] for own in tags]).reshape(
        len(tags), len(names)
    )


def adjusted_r2(y: np.ndarray, columns: np.ndarray) -> float:
    """Adjusted R2 of a linear fit with intercept, at most 1; NaN where it is not defined.

    Args:
        y: `[n]`.
        columns: `[n, k]`; linearly dependent ones count once.
    """
    n = len(y)
    if n < 3 or np.ptp(y) == 0:
        return float("nan")
    centred = columns - columns.mean(0)
    rank = int(np.linalg.matrix_rank(centred)) if centred.size else 0
    if n - 1 - rank <= 0:
        return float("nan")
    y = y - y.mean()
    left = y - (centred @ np.linalg.lstsq(centred, y, rcond=None)[0] if rank else 0.0)
    return float(1 - (left @ left / (n - 1 - rank)) / (y @ y / (n - 1)))
