"""Convergence filter: each rule by hand, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.aggregates.convergence import (
    CONVERGENCE_RULES,
    sentences_before_convergence,
)

pytestmark = pytest.mark.core
RULES = pytest.mark.parametrize("rule", CONVERGENCE_RULES)


@pytest.mark.parametrize(
    ("accuracy", "kept"),
    [
        # A run of four at 1 that does not last, then five at .97 to the end.
        (
            [0.5, 1, 1, 1, 1, 0.5, 0.6, 0.97, 0.97, 0.97, 0.97, 0.97],
            {"settled": 7, "plots": 5, "state_c": 12, "paper": 5, "none": 12},
        ),
        # Always wrong from the second on.
        ([0.4] + [0.0] * 6, {"settled": 1, "plots": 5, "state_c": 6, "paper": 5, "none": 7}),
        # The thresholds themselves are not decided.
        (
            [0.99] * 6, {"settled": 0, "plots": 6, "state_c": 5, "paper": 4, "none": 6},
        ),
        # Three right, three wrong: no run on one side is long enough.
        ([1, 1, 1, 0, 0, 0], dict.fromkeys(CONVERGENCE_RULES, 6)),
        # An unknown accuracy breaks a run.
        (
            [1, 1, 1, np.nan, 1, 1, 1, 1, 1],
            {"settled": 4, "plots": 8, "state_c": 9, "paper": 8, "none": 9},
        ),
        ([], dict.fromkeys(CONVERGENCE_RULES, 0)),
    ],
)  # fmt: skip
def test_rules_by_hand(accuracy, kept):
    found = {rule: sentences_before_convergence(np.array(accuracy), rule) for rule in kept}
    assert found == kept


def test_the_counter_begins_anew_in_each_trace():
    first, second = [0.5, 1, 1, 1], [1, 0.5, 0.5, 0.5]
    assert sentences_before_convergence(np.array(first), "plots") == 4
    assert sentences_before_convergence(np.array(second), "plots") == 4
    assert sentences_before_convergence(np.array(first + second), "plots") == 5


@RULES
@given(st.lists(st.sampled_from([0.0, 0.03, 0.5, 0.97, 0.985, 1.0]), max_size=20))
@settings(max_examples=25, deadline=None)
def test_right_and_wrong_are_alike_and_nothing_is_kept_beyond_the_trace(rule, accuracy):
    accuracy = np.array(accuracy, float)
    kept = sentences_before_convergence(accuracy, rule)
    assert 0 <= kept <= len(accuracy)
    assert sentences_before_convergence(1 - accuracy, rule) == kept
    if rule == "settled" and kept < len(accuracy):
        # Nothing open is dropped.
        assert (accuracy[kept:] > 0.95).all() or (accuracy[kept:] < 0.05).all()


def test_unknown_rule():
    with pytest.raises(UserError, match="convergence rule 'soon'"):
        sentences_before_convergence(np.ones(3), "soon")
