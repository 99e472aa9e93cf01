"""Suppression matrix: normalisation, distance controls and the shuffled null."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.studies.thought_anchors.normalise import (
    distance_profile,
    distance_residual,
    normalise_suppression,
    rank_agreement,
    shuffled_source_null,
    source_importance,
)


def effects(seed, size=14):
    rng = np.random.default_rng(seed)
    gap = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :])
    return rng.normal(size=(size, size)) - 5 + 8 * np.exp(-gap / 2)


@pytest.mark.core
@given(st.integers(0, 100), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_normalised_rows(seed, size):
    matrix = normalise_suppression(effects(seed, size))
    earlier = np.tri(size, k=-1, dtype=bool)
    np.testing.assert_array_equal(np.isfinite(matrix), earlier)
    assert matrix[1, 0] == 0
    means = np.array([matrix[j, :j].mean() for j in range(1, size)])
    np.testing.assert_allclose(means, 0, atol=1e-12)
    per_target = np.random.default_rng(seed).normal(size=(size, 1))
    moved = normalise_suppression(effects(seed, size) + per_target)
    np.testing.assert_allclose(moved, matrix, atol=1e-12)


def test_missing_cells_stay_missing():
    given_effects = effects(0, 5)
    given_effects[3, 1] = np.nan
    matrix = normalise_suppression(given_effects)
    assert np.isnan(matrix[3, 1])
    assert matrix[3, [0, 2]].sum() == pytest.approx(0, abs=1e-12)


def test_profile_and_residual_by_hand():
    matrix = np.full((4, 4), np.nan)
    matrix[1, 0], matrix[2, 1], matrix[3, 2] = 1.0, 2.0, 6.0
    matrix[2, 0], matrix[3, 1] = 4.0, 8.0
    matrix[3, 0] = 5.0
    np.testing.assert_array_equal(distance_profile(matrix), [np.nan, 3, 6, 5])
    residual = distance_residual(matrix)
    assert residual[1, 0] == 1 - 4 and residual[3, 2] == 6 - 1.5 and residual[2, 0] == -4
    assert np.isnan(residual[3, 0])  # no other pair at its distance
    np.testing.assert_allclose(source_importance(matrix), [10 / 3, 5, 6, np.nan])


def test_residual_removes_pure_distance():
    size = 12
    gap = np.arange(size)[:, None] - np.arange(size)[None, :]
    matrix = np.where(gap > 0, 1.0 / np.maximum(gap, 1), np.nan)
    residual = distance_residual(matrix)
    np.testing.assert_allclose(residual[np.isfinite(residual)], 0, atol=1e-12)


@pytest.mark.parametrize("keep_distance", [True, False])
def test_shuffled_null_finds_a_planted_source_and_nothing_else(keep_distance):
    rng = np.random.default_rng(7)
    matrix = np.where(np.tri(20, k=-1, dtype=bool), rng.normal(size=(20, 20)), np.nan)
    quiet = shuffled_source_null(matrix, draws=200, keep_distance=keep_distance)
    assert np.nanmin(quiet.family_p_value) > 0.05
    matrix[7:, 6] += 3
    null = shuffled_source_null(matrix, draws=200, keep_distance=keep_distance)
    assert np.nanargmin(null.p_value) == 6
    assert null.family_p_value[6] < 0.05
    assert null.observed[6] > null.high[6]
    assert np.isnan(null.p_value[-1])
    assert (np.delete(null.family_p_value, [6, 19]) > 0.05).all()


def test_null_that_keeps_distance_is_not_fooled_by_locality():
    """Late sources have near targets only: locality alone makes them look strong."""
    gap = np.arange(20)[:, None] - np.arange(20)[None, :]
    noise = 0.01 * np.random.default_rng(8).normal(size=(20, 20))
    local = np.where(gap > 0, np.exp(-gap.clip(0)) + noise, np.nan)
    free = shuffled_source_null(local, draws=200, keep_distance=False)
    kept = shuffled_source_null(local, draws=200)
    assert (free.p_value[15:18] < 0.05).all()
    assert (kept.family_p_value[:19] > 0.05).all()


def test_null_depends_on_the_seed_only():
    matrix = normalise_suppression(effects(1))
    first, again = (shuffled_source_null(matrix, draws=20, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.mean, again.mean)
    other = shuffled_source_null(matrix, draws=20, seed=4)
    assert (first.mean[:-1] != other.mean[:-1]).any()


def test_rank_agreement():
    matrix = normalise_suppression(effects(2))
    assert rank_agreement(matrix, 3 * matrix + 1) == (pytest.approx(1), 14 * 13 // 2)
    assert rank_agreement(matrix, -matrix, within=3) == (pytest.approx(-1), 13 + 12 + 11)
    value, pairs = rank_agreement(matrix[:2, :2], matrix[:2, :2])
    assert np.isnan(value) and pairs == 1
