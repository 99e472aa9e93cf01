"""Where the answer of a trace is settled: the sentences after it can move nothing.

Every documented rule has a name. Those of the published code look for the first run of sentences
whose accuracies are all decided, and drop what follows the run (the code counts as it goes, so it
knows at the run's end). A run that does not last makes them drop sentences from which the answer
is open again; the default, `settled`, therefore wants the accuracies to stay decided, on one side,
to the end of the trace, and drops from the first of them.

The counter begins anew in each trace; one published script forgets to (a bug, not offered).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_jax.runtime.errors import UserError


@dataclass(frozen=True)
class ConvergenceRule:
    """When an answer counts as settled.

    Attributes:
        high, low: accuracies above `high`, or below `low`, are decided.
        run: how many sentences in a row, all on the same side.
        lasting: the run must reach the last sentence, and is itself dropped.
    """

    high: float
    low: float
    run: int
    lasting: bool = False


CONVERGENCE_RULES: dict[str, ConvergenceRule | None] = {
    "settled": ConvergenceRule(0.95, 0.05, 5, lasting=True),
    # The figures' script of August 2025.
    "plots": ConvergenceRule(0.99, 0.01, 4),
    # The code of October 2025.
    "state_c": ConvergenceRule(0.95, 0.05, 5),
    # The paper's text gives the threshold; the length of the run is that of `plots`.
    "paper": ConvergenceRule(0.98, 0.02, 4),
    "none": None,
}
"""Named rules; the first is the default. `none` keeps every sentence."""


def sentences_before_convergence(accuracy: np.ndarray, rule: str = "settled") -> int:
    """How many sentences come before the answer is settled (all of them if it never is).

    Args:
        accuracy: float `[S]`, share of right answers before each sentence; NaN is undecided.
        rule: a key of `CONVERGENCE_RULES`.

    Returns:
        Number of leading sentences to keep, 0 to S.

    Raises:
        UserError: there is no such rule.
    """
    if rule not in CONVERGENCE_RULES:
        raise UserError(
            found=f"convergence rule {rule!r}",
            expected="one of " + ", ".join(CONVERGENCE_RULES),
            do="name one of these",
        )
    chosen = CONVERGENCE_RULES[rule]
    accuracy = np.asarray(accuracy, np.float64)
    size = len(accuracy)
    if chosen is None:
        return size
    # Comparisons with NaN are false: an accuracy that is not known decides nothing.
    sides = [_run_lengths(accuracy > chosen.high), _run_lengths(accuracy < chosen.low)]
    if chosen.lasting:
        last = max((int(lengths[-1]) for lengths in sides if size), default=0)
        return size - last if last >= chosen.run else size
    ends = [np.flatnonzero(lengths >= chosen.run) for lengths in sides]
    return min((int(end[0]) + 1 for end in ends if len(end)), default=size)


def _run_lengths(decided: np.ndarray) -> np.ndarray:
    """Length of the run of True that ends at each place, int `[S]`."""
    place = np.arange(1, len(decided) + 1)
    broken = np.maximum.accumulate(np.where(decided, 0, place))
    return place - broken
