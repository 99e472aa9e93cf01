"""Which sources of a trace are run together, and from where: groups of nearly equal suffixes.

See `suppression_suffix` for how they are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np

Recompute = Literal["suffix", "full"]

MOST_GROUPS = 8
_LONG = 512
# What columns that suffixes begin at are multiples of, in short and in long traces. The larger is
# the block of queries of `fused_columns`: sums over keys are then the same wherever a row begins.
_FINE, _COARSE = 16, 64
# What a call costs beside its rows, in rows: reading the weights once, and starting it.
_CALL_COST = {"cpu": 0.1, "gpu": 3.0}
_PROGRAM = 1.0  # what a program more must save, in positions of a row: not nothing
# On a CPU more rows make no product quicker, and hold more memory (measured with 1,104 tokens).
_MOST_ROWS = {"cpu": 2}


@dataclass(frozen=True)
class Group:
    """Sources that run with one length.

    Attributes:
        start: position of the first token that is run; what stands before it is cached.
        length: how many positions are run; those past the end of the trace are padding.
        sources: their indices.
    """

    start: int
    length: int
    sources: tuple[int, ...]


@dataclass(frozen=True)
class SuffixPlan:
    """How the sources of a trace are run.

    Attributes:
        groups: each with `start + length` the same.
        rows: in a call.
        apart: whether the unedited trace is run once for all groups; else each group has an
            unedited row of its own.
    """

    groups: tuple[Group, ...]
    rows: int
    apart: bool

    @property
    def columns(self) -> int:
        """Positions of the trace, with padding."""
        return self.groups[0].start + self.groups[0].length


def plan_suffixes(
    first: Sequence[int], end: int, *, at_once: int = 8, recompute: Recompute = "suffix"
) -> SuffixPlan:
    """For edits whose first changed positions are `first`, in a trace of `end` tokens.

    Sources that begin one after another share a length, that of the longest. More groups waste
    less on that, but each is one more program, and may run the unedited row once more; rows of
    a call may be left empty. Of all ways to cut, the cheapest at the best number of rows.

    Args:
        at_once: most sources in a call; the unedited row may come to them.
    """
    columns, grain = -(-end // _FINE) * _FINE, _COARSE if end > _LONG else _FINE
    apart = end > _LONG and jax.default_backend() == "cpu"
    # At least one column before the edit, to see that nothing has changed there.
    starts = np.clip(np.asarray(first, np.int64) - 1, 0, end - 1) // grain * grain
    if recompute == "full":
        starts = np.zeros_like(starts)
    order = np.argsort(starts, kind="stable")
    lengths = columns - starts[order]
    most = _MOST_ROWS.get(jax.default_backend(), at_once + 1)
    options = [
        (*_cheapest(lengths, rows, 0 if apart else 1), rows)
        for rows in range(1, min(max(1, at_once) + 1, most) + 1)
    ]
    _, cuts, rows = min(options, key=lambda option: option[0])
    groups = tuple(
        Group(columns - int(lengths[i]), int(lengths[i]), tuple(sorted(order[i:j].tolist())))
        for i, j in zip(cuts[:-1], cuts[1:], strict=True)
    )
    return SuffixPlan(groups, rows, apart)


def _cheapest(lengths: np.ndarray, rows: int, unedited: int) -> tuple[float, list[int]]:
    """The cost of the best cuts of descending lengths into groups, and where they are.

    Args:
        rows: in a call.
        unedited: how many unedited rows each group has.
    """
    count = len(lengths)
    # What a call costs at one position, in rows.
    call = rows + _CALL_COST.get(jax.default_backend(), 1.0)
    # best[i]: the least cost of the first i sources in so many groups; came[g][i]: the last cut.
    best, came, found = np.full(count + 1, np.inf), [], (np.inf, 0)
    best[0] = 0.0
    for groups in range(1, min(MOST_GROUPS, count) + 1):
        after, last = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
        for i in range(1, count + 1):
            calls = -(-(unedited + i - np.arange(i)) // rows)
            costs = best[:i] + calls * lengths[:i] * call + _PROGRAM
            last[i] = np.argmin(costs)
            after[i] = costs[last[i]]
        best = after
        came.append(last)
        found = min(found, (float(best[count]), groups))
    cuts = [count]
    for last in reversed(came[: found[1]]):
        cuts.append(int(last[cuts[-1]]))
    return found[0], cuts[::-1]
