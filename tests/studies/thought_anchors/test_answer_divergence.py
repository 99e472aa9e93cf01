"""KL between answer counts: golden values of every smoothing, and its laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.answer_divergence import (
    SMOOTHINGS,
    Smoothing,
    count_divergence,
    smoothing,
)


@pytest.mark.core
@pytest.mark.parametrize(
    ("first", "second", "how", "value"),
    [
        ((3, 1), (1, 3), Smoothing(1e-12), 0.5 * math.log(3)),
        ((3, 1), (1, 3), SMOOTHINGS["laplace"], math.log(2) / 3),
        ((3, 1), (1, 3), SMOOTHINGS["raw_laplace"], math.log(2) / 2),
        ((3, 1), (1, 3), SMOOTHINGS["raw_half"], 0.423649),
        ((4, 0), (0, 4), SMOOTHINGS["released"], 22.1096),
        ((4, 0), (0, 4), SMOOTHINGS["raw_laplace"], math.log(5)),
        ((1, 3), (1, 4), SMOOTHINGS["raw_laplace"], 0.0),
        ((5, 2, 7), (5, 2, 7), SMOOTHINGS["released"], 0.0),
        # Half a count on each side: 4.5/5 ln 9 + 0.5/5 ln (1/9).
        ((4, 0), (0, 4), SMOOTHINGS["jeffreys"], 0.8 * math.log(9)),
    ],
)
def test_golden_values(first, second, how, value):
    assert count_divergence(first, second, how) == pytest.approx(value, abs=2e-5, rel=2e-6)


def test_value_before_the_clip():
    """Unsmoothed weights give no divergence: (1,3) against (1,4) is negative before the clip."""
    raw = 0.25 * math.log((2 / 6) / (2 / 7)) + 0.75 * math.log((4 / 6) / (5 / 7))
    assert raw == pytest.approx(-0.013207, abs=1e-6)


counts = st.lists(st.integers(0, 30), min_size=3, max_size=3)


@given(counts, counts, st.permutations(range(3)), st.sampled_from(sorted(SMOOTHINGS)))
@settings(max_examples=100, deadline=None)
def test_laws(first, second, order, name):
    how = SMOOTHINGS[name]
    first, second = np.array(first), np.array(second)
    value = count_divergence(first, second, how)
    assert value >= 0 and np.isfinite(value)
    assert count_divergence(first, first, how) == pytest.approx(0, abs=1e-12)
    assert count_divergence(first[order], second[order], how) == pytest.approx(value, abs=1e-12)
    assert count_divergence(first, np.zeros(3), how) == 0
    assert count_divergence(np.zeros(3), second, how) == 0


@given(counts, counts)
@settings(max_examples=50, deadline=None)
def test_smoothed_weights_need_no_clip(first, second):
    p, q = np.array(first) + 0.5, np.array(second) + 0.5
    p, q = p / p.sum(), q / q.sum()
    expected = (p * np.log(p / q)).sum() if sum(first) and sum(second) else 0.0
    value = count_divergence(first, second, SMOOTHINGS["jeffreys"])
    assert value == pytest.approx(expected, abs=1e-12)


def test_scaling_of_counts_does_not_matter_without_smoothing():
    tiny = Smoothing(1e-13)
    assert count_divergence([3, 5], [2, 9], tiny) == pytest.approx(
        float(count_divergence([30, 50], [20, 90], tiny)), abs=1e-10
    )


def test_leading_axes():
    first = np.array([[3, 1], [4, 0]])
    values = count_divergence(first, np.array([1, 3]), SMOOTHINGS["laplace"])
    singles = [count_divergence(row, [1, 3], SMOOTHINGS["laplace"]) for row in first]
    np.testing.assert_array_equal(values, singles)


def test_unknown_smoothing():
    with pytest.raises(UserError, match="smoothing 'none'"):
        smoothing("none")
