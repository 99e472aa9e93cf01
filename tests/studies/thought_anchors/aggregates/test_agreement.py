"""Agreement between methods: partial correlations, nulls, matrices, explanations, anchors."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp_jax.studies.thought_anchors.aggregates.anchors import anchors
from interp_jax.studies.thought_anchors.aggregates.categories import CategoryChoices
from interp_jax.studies.thought_anchors.aggregates.correlations import (
    method_agreements,
    trace_agreements,
)
from interp_jax.studies.thought_anchors.aggregates.explained import adjusted_r2, explain
from interp_jax.studies.thought_anchors.aggregates.matrices import (
    explained_by_distance,
    matrix_agreements,
    profile_over_traces,
    shifted_agreements,
    trace_matrix_agreements,
)
from interp_jax.studies.thought_anchors.aggregates.measures import answer_entropy
from interp_jax.studies.thought_anchors.aggregates.partial_ranks import partial_spearman
from interp_jax.studies.thought_anchors.normalise import rank_agreement
from tests.studies.thought_anchors.aggregates.synthetic_traces import measured, where

KL, RESAMPLING = "counterfactual_importance_kl", "resampling_importance_kl"
ALL = CategoryChoices(convergence="none")


@given(st.integers(0, 1000), st.integers(6, 25))
@settings(max_examples=25, deadline=None)
def test_without_covariates_it_is_spearman(seed, size):
    a, b = np.random.default_rng(seed).integers(0, 9, (2, size)).astype(float)
    rho, count = partial_spearman(a, b)
    assert count == size
    if np.ptp(a) and np.ptp(b):
        assert rho == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    else:
        assert np.isnan(rho)


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_one_covariate_is_the_closed_form_and_any_monotone_map_changes_nothing(seed):
    a, b, c = np.random.default_rng(seed).normal(size=(3, 20))
    ab, ac, bc = (stats.spearmanr(x, y).statistic for x, y in ((a, b), (a, c), (b, c)))
    expected = (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))
    rho, _ = partial_spearman(a, b, [c])
    assert rho == pytest.approx(expected, abs=1e-10)
    assert partial_spearman(np.exp(a), b**3, [-c])[0] == pytest.approx(rho, abs=1e-10)


def test_what_a_covariate_explains_wholly_has_no_correlation_left():
    position = np.arange(12.0)
    noise = np.random.default_rng(0).normal(size=12)
    assert np.isnan(partial_spearman(position**2, noise, [position])[0])
    assert np.isnan(partial_spearman(position[:4], noise[:4])[0])
    holes = np.where(position < 3, np.nan, noise)
    assert partial_spearman(holes, position)[1] == 9


def with_shared_trend(seed, size=40):
    """Two measures that share a trend over the trace and nothing else."""
    rng = np.random.default_rng(seed)
    trace = measured(1)[0]
    position = np.arange(size)
    values = {name: position + 8 * rng.standard_normal(size) for name in (KL, RESAMPLING)}
    return dataclasses.replace(
        trace, where=where(problem=str(seed)), indices=position, tags=(("unknown",),) * size,
        accuracy=np.full(size, 0.5), headroom=rng.random(size), values=values,
    )  # fmt: skip


def test_position_control_takes_a_shared_trend_out():
    per_trace = [trace_agreements(with_shared_trend(s), ALL, draws=200) for s in range(6)]
    found = {one.control: one for one in method_agreements(per_trace)}
    assert found["raw"].over.mean > 0.5 and found["raw"].p_shuffled == pytest.approx(1 / 201)
    assert found["headroom"].over.mean > 0.5
    assert abs(found["position"].over.mean) < found["position"].null_high < 0.3
    assert found["position"].p_shuffled > 0.05


def test_null_is_kept_when_nothing_is_shared():
    """20 seeds of independent measures: the shuffled null rejects about one in twenty."""
    rejected = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        trace = with_shared_trend(seed)
        values = {name: rng.standard_normal(40) for name in (KL, RESAMPLING)}
        found = trace_agreements(dataclasses.replace(trace, values=values), ALL, draws=100)
        raw = next(one for one in method_agreements([found]) if one.control == "raw")
        rejected += raw.p_shuffled <= 0.05
    assert rejected <= 4


def test_draws_depend_on_the_trace_and_the_seed_only():
    one, other = (with_shared_trend(s) for s in (1, 2))
    alone = trace_agreements(one, ALL, draws=50)
    trace_agreements(other, ALL, draws=50)
    again = trace_agreements(one, ALL, draws=50)
    moved = trace_agreements(one, ALL, draws=50, seed=1)
    key = (RESAMPLING, KL, "raw")
    np.testing.assert_array_equal(alone[key].shuffled, again[key].shuffled)
    assert (alone[key].shuffled != moved[key].shuffled).any()


def local_matrix(seed, size=30, own=None):
    rng = np.random.default_rng(seed)
    gap = np.subtract.outer(np.arange(size), np.arange(size))
    values = 5 * np.exp(-gap / 2.0) + rng.normal(size=(size, size)) + (0 if own is None else own)
    return np.where(gap > 0, values, np.nan)


def with_matrices(first, second):
    trace = measured(1)[0]
    return dataclasses.replace(trace, resampling=first, suppression=second)


def test_locality_alone_does_not_pass_the_shifted_null():
    trace = with_matrices(local_matrix(1), local_matrix(2))
    found = matrix_agreements([trace_matrix_agreements(trace)])
    by_key = {(one.within, one.residual): one for one in found}
    everything = by_key[None, False]
    assert everything.over.mean > 0.05  # both are largest near the diagonal
    assert everything.null_mean > 0.05 and everything.p_shifted > 0.05
    assert abs(by_key[None, True].over.mean) < 0.1
    assert all(one.p_shifted > 0.01 for one in found)


def test_a_shared_source_passes_every_control():
    own = 3 * np.random.default_rng(5).normal(size=30)[None, :]
    trace = with_matrices(local_matrix(1, own=own), local_matrix(2, own=own))
    for one in matrix_agreements([trace_matrix_agreements(trace)]):
        assert one.over.mean > 0.4 and one.p_shifted < 0.05


def test_a_shift_keeps_each_distance_and_no_shift_is_the_correlation():
    first, second = local_matrix(1), local_matrix(2)

    class Always:
        def __init__(self, shift):
            self.shift = shift

        def integers(self, low, high, size):
            return np.full(size, self.shift)

    for within, shift in itertools.product((None, 5), (0, 1, 7, 28)):
        found = shifted_agreements(first, second, 1, Always(shift), within=within)
        rows, columns = np.tril_indices(30, -1)
        moved = (columns + shift) % (30 - (rows - columns))
        by_hand = np.full((30, 30), np.nan)
        by_hand[rows, columns] = second[moved + rows - columns, moved]
        expected, _ = rank_agreement(first, by_hand, within=within)
        assert found[0] == pytest.approx(expected, abs=1e-12)
    # A matrix that is nothing but distance correlates as it did, however it is moved.
    gap = np.subtract.outer(np.arange(30), np.arange(30)).astype(float)
    pure = np.where(gap > 0, -gap, np.nan)
    moved = shifted_agreements(pure, pure, 20, np.random.default_rng(0))
    np.testing.assert_allclose(moved, 1.0, atol=1e-12)


def test_profiles_over_traces():
    size, gap = 12, np.subtract.outer(np.arange(12), np.arange(12)).astype(float)
    pure = np.where(gap > 0, 1 / np.maximum(gap, 1), np.nan)
    traces = [with_matrices(None, pure), with_matrices(None, 3 * pure), with_matrices(pure, None)]
    profile = profile_over_traces(traces, "suppression", longest=5)
    assert profile.traces == 2 and profile.count.tolist() == [2] * 5
    np.testing.assert_array_equal(profile.distance, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(profile.mean, 2 / np.arange(1, 6))
    np.testing.assert_allclose(profile.se, 1 / np.arange(1, 6))
    mass = sum((size - d) / d for d in range(1, size))
    assert profile.within_one.mean == pytest.approx((size - 1) / mass)
    assert profile.explained.mean == pytest.approx(1.0)
    assert profile_over_traces([measured(1, suppression=False)[0]], "suppression") is None
    noise = np.where(gap > 0, np.random.default_rng(0).normal(size=gap.shape), np.nan)
    assert abs(explained_by_distance(noise)) < 0.2


def test_explanations_find_what_was_planted():
    trace = with_shared_trend(0)
    headroom = trace.headroom
    tags = tuple((name,) for name in np.resize(["a", "b"], 40))
    mixed = dataclasses.replace(trace, tags=tags, values={KL: headroom**3})
    over = explain([mixed], KL, ALL).over
    assert over["headroom"].mean == pytest.approx(1.0)
    assert over["tag beyond headroom and position"].mean == pytest.approx(0.0, abs=1e-9)
    tagged = dataclasses.replace(mixed, values={KL: np.resize([0.0, 1.0], 40)})
    over = explain([tagged], KL, ALL).over
    assert over["tag"].mean == pytest.approx(1.0) and over["headroom"].mean < 0.2
    assert explain([trace], "receiver", ALL) is None


def test_adjusted_share_of_noise_is_nothing_on_average():
    rng = np.random.default_rng(0)
    shares = [adjusted_r2(rng.random(30), rng.random((30, 6))) for _ in range(200)]
    assert abs(np.mean(shares)) < 0.03
    columns = rng.random((30, 2))
    doubled = np.concatenate([columns, columns], axis=1)
    y = rng.random(30)
    assert adjusted_r2(y, doubled) == pytest.approx(adjusted_r2(y, columns))
    assert np.isnan(adjusted_r2(np.ones(9), columns[:9]))
    assert np.isnan(adjusted_r2(rng.random(4), rng.random((4, 3))))


def test_entropy_closed_forms():
    assert answer_entropy([5, 5]) == pytest.approx(np.log(2))
    assert answer_entropy([3, 0]) == 0.0
    assert answer_entropy([1] * 8) == pytest.approx(np.log(8))
    assert np.isnan(answer_entropy([]))


def test_anchors_are_the_largest_and_constant_measures_have_none():
    trace = with_shared_trend(0)
    values = {KL: np.where(np.arange(40) == 7, 5.0, 0.0), "receiver": np.zeros(40)}
    found = anchors(dataclasses.replace(trace, values=values, texts=("s",) * 40))
    assert [one.index for one in found] == [7]
    assert found[0].largest_for == (KL,) and found[0].ranks[KL] == 1
