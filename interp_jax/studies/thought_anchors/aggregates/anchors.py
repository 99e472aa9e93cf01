"""The anchor sentences of a trace: the largest by each measure, with all that is known of them.

This is the paper's case study (problem 4682: the sentence that proposes to convert to decimal)
as a function of any trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from interp_jax.studies.thought_anchors.aggregates.measures import TraceMeasures


@dataclass(frozen=True)
class Anchor:
    """One sentence.

    Attributes:
        index: its `chunk_idx`.
        text: the sentence.
        tags: its categories.
        accuracy: share of right answers before it, and `accuracy_after` before the next one.
        values: every measure of it (accuracies with positive = it helps).
        ranks: measure -> 1 for the largest value of the trace.
        largest_for: measures whose largest value is here.
    """

    index: int
    text: str
    tags: tuple[str, ...]
    accuracy: float
    accuracy_after: float
    values: Mapping[str, float]
    ranks: Mapping[str, int]
    largest_for: tuple[str, ...]


def anchor(trace: TraceMeasures, index: int) -> Anchor:
    """What is known of the sentence with `chunk_idx` = `index`."""
    place = int(np.flatnonzero(trace.indices == index)[0])
    values, ranks, largest = {}, {}, []
    for name, column in trace.values.items():
        if np.isfinite(column[place]):
            values[name] = float(column[place])
            ranks[name] = 1 + int((column > column[place]).sum())
            if ranks[name] == 1 and column[place] > np.nanmin(column):  # of equals none is largest
                largest.append(name)
    after = trace.accuracy[place + 1] if place + 1 < len(trace) else np.nan
    return Anchor(
        index=index,
        text=trace.texts[place],
        tags=trace.tags[place],
        accuracy=float(trace.accuracy[place]),
        accuracy_after=float(after),
        values=values,
        ranks=ranks,
        largest_for=tuple(largest),
    )


def anchors(trace: TraceMeasures) -> list[Anchor]:
    """The sentences that are largest by some measure, those that are so by most first."""
    best = {
        int(trace.indices[np.nanargmax(column)])
        for name, column in trace.values.items()
        if name not in ("incoming", "overdeterminedness") and _varies(column)
    }
    found = [anchor(trace, index) for index in sorted(best)]
    return sorted(found, key=lambda one: (-len(one.largest_for), one.index))


def _varies(column: np.ndarray) -> bool:
    known = column[np.isfinite(column)]
    return len(known) > 1 and bool(np.ptp(known) > 0)
