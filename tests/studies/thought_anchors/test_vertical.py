"""Receiver heads: closed forms of vertical scores, kurtosis, selection and receiver scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.vertical import (
    head_agreement,
    head_kurtosis,
    mean_kurtosis,
    receiver_scores,
    select_receiver_heads,
    sentence_average,
    split_half_reliability,
    vertical_scores,
)


def causal_attention(rng, shape):
    weights = np.tril(rng.uniform(0.1, 1.0, shape))
    return weights / weights.sum(-1, keepdims=True)


def test_sentence_average_keeps_the_mass():
    """Rows sum to 1: the shares of all sentences and of the prompt add up to 1."""
    attention = causal_attention(np.random.default_rng(0), (2, 11, 11))
    ranges = np.array([[3, 5], [5, 9], [9, 9], [9, 11]])
    average = sentence_average(attention, ranges)
    lengths = ranges[:, 1] - ranges[:, 0]
    for i, (first, last) in enumerate(ranges):
        if first == last:
            assert (average[:, i] == 0).all() and (average[:, :, i] == 0).all()
            continue
        prompt = attention[:, first:last, :3].sum(-1).mean(-1)
        np.testing.assert_allclose((average[:, i] * lengths).sum(-1) + prompt, 1, atol=1e-6)
        block = attention[:, first:last, 5:9].mean((-2, -1))
        np.testing.assert_allclose(average[:, i, 1], block, atol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("proximity", [0, 1, 4])
def test_uniform_causal_attention(proximity):
    size = 12
    uniform = np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None]
    scores = vertical_scores(uniform[None, None], proximity=proximity)[0, 0]
    for j in range(size - proximity):
        expected = np.mean([1 / (k + 1) for k in range(j + proximity, size)])
        assert scores[j] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(scores[size - proximity :]).all()


@pytest.mark.core
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"control_depth": True}, {"statistic": "median"}])
def test_short_traces_have_no_scores(size, options):
    assert np.isnan(vertical_scores(np.ones((size, size)), proximity=4, **options)).all()


def test_median_and_depth_control():
    matrix = np.array([[0, 0, 0, 0], [3, 0, 0, 0], [5, 4, 0, 0], [1, 8, 8, 0]], float)
    median = vertical_scores(matrix, proximity=1, statistic="median")
    np.testing.assert_allclose(median[:3], [3, 6, 8])
    # Ranks in row 1: 1/1; row 2: 5 -> 2/2, 4 -> 1/2; row 3: 1 -> 1/3, ties 8 -> 2.5/3.
    ranked = vertical_scores(matrix, proximity=1, control_depth=True)
    np.testing.assert_allclose(ranked[:3], [(1 + 1 + 1 / 3) / 3, (0.5 + 2.5 / 3) / 2, 2.5 / 3])


@pytest.mark.core
def test_kurtosis_closed_forms():
    assert head_kurtosis([1, 1, 1, 5]) == pytest.approx(-2 / 3)
    one_hot = np.zeros(100)
    one_hot[17] = 1
    assert head_kurtosis(one_hot) == pytest.approx(1 / (0.01 * 0.99) - 6)
    assert head_kurtosis(one_hot) == pytest.approx(95.0101, abs=1e-4)
    assert np.isnan(head_kurtosis(np.full(10, 0.1)))
    assert np.isnan(head_kurtosis([1.0, np.nan]))


@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=12).filter(lambda v: np.std(v) > 0.05),
    st.floats(0.01, 50) | st.floats(-50, -0.01),
    st.floats(-5, 5),
)
@settings(max_examples=80, deadline=None)
def test_kurtosis_is_affine_invariant(values, scale, shift):
    values = np.array([*values, np.nan, np.nan])
    moved = head_kurtosis(scale * values + shift)
    assert moved == pytest.approx(float(head_kurtosis(values)), rel=1e-6, abs=1e-6)
    expected = stats.kurtosis(values, fisher=True, bias=True, nan_policy="omit")
    assert head_kurtosis(values) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


def test_planted_head_is_found():
    rng = np.random.default_rng(3)
    size, planted = 30, 11
    attention = causal_attention(rng, (3, 4, size, size))
    attention[2, 1] = np.eye(size)
    attention[2, 1, planted + 1 :] = np.eye(size)[planted]
    attention[0, 0] = attention[2, 1]  # in a skipped layer
    attention[1, 3] = 0.01  # constant: no kurtosis
    scores = vertical_scores(attention, proximity=4)
    kurtosis = head_kurtosis(scores)
    heads = select_receiver_heads(kurtosis, 3)
    assert heads[0] == (2, 1)
    assert all(layer > 0 for layer, _ in heads) and (1, 3) not in heads
    assert np.nanargmax(receiver_scores(scores, heads[:1])) == planted
    assert np.isnan(receiver_scores(scores, heads)[-4:]).all()
    assert select_receiver_heads(kurtosis, 1, skip_layers=())[0] == (0, 0)
    with pytest.raises(UserError, match="8 receiver heads asked of 7"):
        select_receiver_heads(kurtosis, 8)


def test_traces_are_averaged_and_split():
    rng = np.random.default_rng(4)
    kurtosis = rng.normal(size=(1, 3, 50)) + 0.1 * rng.normal(size=(6, 3, 50))
    kurtosis[2, 1, 0] = np.nan
    assert mean_kurtosis(kurtosis)[1, 0] == pytest.approx(np.nanmean(kurtosis[:, 1, 0]))
    assert split_half_reliability(kurtosis) > 0.95
    noise = rng.normal(size=(6, 3, 200))
    assert abs(split_half_reliability(noise)) < 0.3


def test_agreement_between_heads():
    rng = np.random.default_rng(5)
    shared = rng.normal(size=40)
    scores = np.stack([shared, 2 * shared + 1, rng.normal(size=40)])[None]
    scores[..., -4:] = np.nan
    assert head_agreement(scores, [(0, 0), (0, 1)]) == pytest.approx(1)
    assert abs(head_agreement(scores, [(0, 0), (0, 2)])) < 0.5
