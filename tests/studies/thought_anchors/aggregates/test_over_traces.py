"""Means, paired tests and Holm's correction against closed forms and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp_jax.studies.thought_anchors.aggregates.over_traces import (
    holm,
    mean_over_traces,
    paired_test,
    signed_rank,
)

pytestmark = pytest.mark.core


def test_mean_by_hand():
    over = mean_over_traces([1.0, np.nan, 3.0, 5.0])
    assert (over.traces, over.mean) == (3, 3.0)
    assert over.se == pytest.approx(2 / np.sqrt(3))
    assert over.high - over.mean == pytest.approx(4.302653 * over.se, rel=1e-6)


def test_one_trace_has_a_mean_and_no_error():
    over = mean_over_traces([2.0])
    assert (over.traces, over.mean) == (1, 2.0)
    assert np.isnan([over.se, over.low, over.high]).all()
    none = mean_over_traces([np.nan])
    assert none.traces == 0 and np.isnan(none.mean)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=12))
@settings(max_examples=30, deadline=None)
def test_t_test_is_scipy_s(pairs):
    first, second = np.array(pairs).T
    test = paired_test(first, second)
    swapped = paired_test(second, first)
    np.testing.assert_allclose(swapped.t, -test.t, rtol=1e-12)
    np.testing.assert_allclose(swapped.p_wilcoxon, test.p_wilcoxon)
    if np.isfinite(test.p_t) and np.std(first - second) > 1e-6:
        theirs = stats.ttest_rel(first, second).pvalue
        assert test.p_t == pytest.approx(theirs, rel=1e-6, abs=1e-300)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_signed_rank_counts_all_signs(values):
    """Ties and zeros included: the share of sign patterns at least as far from the middle."""
    difference = np.array(values, float)
    kept = difference[difference != 0]
    if not len(kept):
        assert np.isnan(signed_rank(difference))
        return
    ranks = stats.rankdata(np.abs(kept))
    middle = ranks.sum() / 2
    far = abs(ranks[kept > 0].sum() - middle)
    sums = [np.dot(s, ranks) for s in itertools.product([0, 1], repeat=len(kept))]
    p = np.mean([abs(one - middle) >= far - 1e-9 for one in sums])
    assert signed_rank(difference) == pytest.approx(p, abs=1e-12)


def test_signed_rank_of_many_is_scipy_s_approximation():
    difference = np.random.default_rng(0).normal(0.2, size=40).round(1)
    theirs = stats.wilcoxon(difference, method="asymptotic").pvalue
    assert signed_rank(difference) == pytest.approx(theirs, rel=1e-9)


def test_without_spread_or_traces_nothing_is_claimed():
    same = paired_test(np.full(4, 0.3), np.full(4, 0.1))
    assert same.difference == pytest.approx(0.2) and np.isnan(same.p_t)
    one = paired_test(np.array([1.0, np.nan]), np.array([0.5, 2.0]))
    assert one.traces == 1 and np.isnan([one.se, one.t, one.p_t, one.p_wilcoxon]).all()


def test_holm_by_hand():
    adjusted = holm([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).max() <= 1.0
    assert np.isnan(holm([np.nan])).all()


def test_holm_keeps_the_family_wise_rate():
    """2000 families of 10 true nulls: a rejection in about 5 % of them (sd .5 %)."""
    p_values = np.random.default_rng(3).random((2000, 10))
    rate = np.mean([holm(family).min() < 0.05 for family in p_values])
    assert 0.035 < rate < 0.065
