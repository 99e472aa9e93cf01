"""Sentence-to-sentence matrix: counts by hand, its bounds, and the two degenerate thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.studies.thought_anchors.sentence_matrix import (
    incoming,
    matrix_from_matches,
    outgoing,
    sentence_hits,
    sentence_matrix,
)

WORDS = ["alpha", "beta", "gamma", "delta"]
TRACE = ["Alpha comes first now.", "Then beta follows it.", "And gamma closes it."]


def encode(texts):
    """Unit vectors by which words a text holds."""
    rows = np.array([[1.0 * (w in text.lower()) for w in WORDS] + [1e-3] for text in texts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


ROLLOUTS = {
    0: ["Then delta comes here. And gamma again here.", "Delta alone is here."],
    1: ["Beta is then here. And gamma comes too.", "And gamma comes only.", "Beta is here, beta."],
    2: ["Gamma, so it is.", "Delta, so it is."],
}


def test_by_hand():
    result = sentence_matrix(TRACE, ROLLOUTS, encode)
    np.testing.assert_array_equal(result.rollouts, [2, 3, 2, 0])
    np.testing.assert_array_equal(result.matches[:3], [[0, 0, 1], [0, 2, 2], [0, 0, 1]])
    nan = np.nan
    expected = [[nan, 2 / 3, 2 / 3 - 1 / 2], [nan, nan, 1 / 2 - 2 / 3], [nan, nan, nan]]
    np.testing.assert_allclose(result.matrix, expected, atol=1e-12)
    assert (result.low[0, 1] < result.matrix[0, 1]) and (result.matrix[0, 1] < result.high[0, 1])
    np.testing.assert_allclose(outgoing(result.matrix), [(2 / 3 + 1 / 6) / 2, -1 / 6, nan])
    np.testing.assert_allclose(incoming(result.matrix), [nan, 2 / 3, 0], atol=1e-12)


@pytest.mark.parametrize("threshold", [-1.0, 1.001, 2.0])
def test_thresholds_that_match_everything_or_nothing(threshold):
    result = sentence_matrix(TRACE, ROLLOUTS, encode, threshold=threshold)
    defined = np.isfinite(result.matrix)
    assert defined.sum() == 3 and (result.matrix[defined] == 0).all()
    share = result.matches[:3] / result.rollouts[:3, None]
    assert (share == (1.0 if threshold < 0 else 0.0)).all()


@given(
    st.lists(st.integers(0, 9), min_size=5, max_size=5),
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=5, max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_bounds(rollouts, shares):
    matches = np.floor(np.array(shares) * np.array(rollouts)[:, None]).astype(int)
    result = matrix_from_matches(matches, np.array(rollouts))
    known = np.isfinite(result.matrix)
    assert (np.abs(result.matrix[known]) <= 1).all()
    assert (result.low[known] <= result.matrix[known] + 1e-12).all()
    assert (result.high[known] >= result.matrix[known] - 1e-12).all()
    for i in range(4):
        for j in range(4):
            assert known[i, j] == (j > i and rollouts[i] > 0 and rollouts[i + 1] > 0)


def test_equal_rollouts_at_both_indices_give_zero():
    same = {0: ROLLOUTS[1], 1: ROLLOUTS[1], 2: ROLLOUTS[1]}
    matrix = sentence_matrix(TRACE, same, encode).matrix
    assert (matrix[np.isfinite(matrix)] == 0).all()


def test_hits_in_chunks_equal_a_plain_product(monkeypatch, compile_counter):
    from interp_jax.studies.thought_anchors import sentence_matrix as module

    monkeypatch.setattr(module, "_CHUNK", 64)
    rng = np.random.default_rng(0)
    trace, others = rng.normal(size=(5, 8)), rng.normal(size=(150, 8))
    trace = (trace / np.linalg.norm(trace, axis=1, keepdims=True)).astype(np.float32)
    others = (others / np.linalg.norm(others, axis=1, keepdims=True)).astype(np.float32)
    expected = others.astype(np.float64) @ trace.T.astype(np.float64) >= 0.3
    with compile_counter() as counter:
        hits = sentence_hits(trace, others, 0.3)
    np.testing.assert_array_equal(hits, expected)
    assert counter.count_of("_at_least") == 1


def test_empty_inputs():
    assert sentence_matrix([], {}, encode).matrix.shape == (0, 0)
    blank = sentence_matrix(TRACE, {0: ["", " "], 1: [""]}, encode)
    assert blank.matrix[0, 1] == 0 and (blank.matches == 0).all()
