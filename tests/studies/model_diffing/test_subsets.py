"""Sets of latents, and intervals over rows."""

from __future__ import annotations

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.bootstrap import Resamples
from interp_jax.studies.model_diffing.subsets import (
    chat_specific,
    effective_chat_only,
    eligible,
    halves_by_delta,
    halves_by_scaling,
    random_shared,
    verdicts,
)

pytestmark = pytest.mark.core
NAN = np.nan


def test_effective_chat_only_takes_the_largest_delta():
    delta = np.asarray([0.5, 0.95, NAN, 0.99, 0.95, 0.1, 0.91])
    assert effective_chat_only(delta, 3).tolist() == [3, 1, 4]
    assert effective_chat_only(delta, 100).tolist() == [3, 1, 4, 6, 0, 5]
    assert effective_chat_only(delta, -1).tolist() == [3, 1, 4, 6]  # the class, Delta > 0.9
    with pytest.raises(UserError, match="0 latents"):
        effective_chat_only(delta, 0)


def test_random_shared_is_shared_and_repeatable():
    delta = np.linspace(0.005, 0.995, 100)
    found = random_shared(delta, 8)
    assert len(set(found)) == 8 and (np.abs(delta[found] - 0.5) < 0.1).all()
    np.testing.assert_array_equal(found, random_shared(delta, 8))
    assert len(random_shared(delta, 50)) == 20  # as many as there are


def test_the_filter_wants_both_ratios_in_range():
    eps = np.asarray([0.0, -0.2, 2.1, NAN, 0.5, 1.0])
    r = np.asarray([0.0, 0.5, 0.5, 0.5, 2.5, 1.0])
    alive = np.asarray([True] * 5 + [False])
    assert eligible(eps, r, alive).tolist() == [True] + [False] * 5


def test_halves():
    delta = np.asarray([0.1, 0.9, 0.5, 0.7, 0.3])
    found = halves_by_delta(np.arange(5), delta)
    assert sorted(found.best) == [1, 3] and sorted(found.worst) == [0, 4]
    # Ranks are summed, not values: 1000 counts no more than the largest.
    eps, r = np.asarray([0.0, 1.0, 2.0, 1000.0]), np.asarray([3.0, 2.0, 1.0, 0.0])
    assert halves_by_scaling(np.arange(4), eps, eps).best.tolist() == [0, 1]
    tied = halves_by_scaling(np.arange(4), eps, r)  # all sums equal: by number
    assert tied.best.tolist() == [0, 1] and tied.worst.tolist() == [2, 3]


def test_verdicts_are_disjoint_and_whole():
    eps = np.asarray([0.1, 0.3, 0.1, 0.3, NAN])
    r = np.asarray([0.1, 0.1, 0.9, 0.9, 0.1])
    found = verdicts(np.arange(5), eps, r)
    assert found == {
        "chat_specific": 1, "shrinkage": 1, "decoupling": 1, "both": 1, "unknown": 1
    }
    assert chat_specific(eps, r).tolist() == [True, False, False, False, False]


def test_an_interval_draws_rows_and_not_tokens():
    """Rows of a hundred equal tokens are as uncertain as rows of one."""
    draw = np.random.default_rng(0)
    value = draw.normal(size=50)
    few = Resamples(50).mean(value, np.ones(50))
    many = Resamples(50).mean(100 * value, np.full(50, 100.0))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))
    half = (few.high - few.low) / 2
    assert half == pytest.approx(1.96 * value.std(ddof=1) / np.sqrt(50), rel=0.15)
    assert few.value == pytest.approx(value.mean())


def test_shares_and_differences_are_paired():
    base = np.asarray([1.0, 2.0, 3.0, 4.0])
    r = Resamples(4)
    same = r.recovered(0.25 * base, base)
    assert (same.value, same.low, same.high) == pytest.approx((0.75, 0.75, 0.75))
    shift = r.difference(base + 1, base, np.ones(4))
    assert (shift.value, shift.low, shift.high) == pytest.approx((1.0, 1.0, 1.0))
    assert np.isnan(r.recovered(base, np.zeros(4)).value)


def test_one_row_has_no_interval():
    found = Resamples(1).mean(np.asarray([3.0]), np.asarray([2.0]))
    assert found.value == 1.5 and np.isnan(found.low) and np.isnan(found.high)
    with pytest.raises(UserError, match="0 rows"):
        Resamples(0)
