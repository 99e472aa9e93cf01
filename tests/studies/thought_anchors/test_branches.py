"""CF++ and resilience against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from interp_jax.studies.thought_anchors.branches import (
    Resilience,
    absences,
    content_similarity,
    first_return,
    log_odds,
)
from interp_jax.studies.thought_anchors.rollout_pools import ImportanceConfig, RolloutPool

PLAIN = ImportanceConfig(draws=0, smoothing="laplace")
WORDS = ("red", "blue", "green")


def encode(texts):
    """Unit vectors: an axis for each colour a text names first, one for all others."""
    vectors = np.zeros((len(texts), 4), np.float32)
    for row, text in enumerate(texts):
        named = [k for k, word in enumerate(WORDS) if word in text]
        vectors[row, named[0] if named else 3] = 1
    return vectors


def test_similarity_is_the_nearest_sentence_of_a_rollout():
    sentences = ["It is red here.", "It is blue here."]
    rollouts = {
        0: ["Something else now. And red again here.", "Nothing of it here. Only green there.", ""],
        1: ["The red one is gone."],
        2: ["Beyond the trace it ends."],
    }
    found = content_similarity(sentences, rollouts, encode)
    assert set(found) == {0, 1}
    assert found[0].tolist() == [1.0, 0.0, -1.0] and found[1].tolist() == [0.0]


def pool(*answers):
    return RolloutPool(list(answers), [answer == "4" for answer in answers])


def test_cf_plus_compares_only_the_rollouts_without_the_content():
    """6 of 8 keep the content and are right; without it 0 of 2 are. Plain accuracy hides it."""
    pools = {0: pool(*["4"] * 6, "5", "5"), 1: pool(*["4"] * 8)}
    near = {0: np.asarray([0.9] * 6 + [0.1, 0.69]), 1: np.zeros(8)}
    first, last = absences(pools, near, 0.7, PLAIN)
    assert (first.absent, first.present) == (2, 8)
    assert first.absent_fraction.value == 0.25
    assert first.accuracy.value == 1.0  # positive: the content helps
    # Laplace over {4, 5}: absent (1, 3)/4, present (9, 1)/10.
    assert first.kl.value == pytest.approx(0.25 * math.log(0.25 / 0.9) + 0.75 * math.log(7.5))
    assert first.log_odds.value == pytest.approx(math.log(8.5 / 0.5) - math.log(0.5 / 2.5))
    assert (last.absent, last.present) == (8, 0)  # nothing comes after the last sentence
    assert math.isnan(last.accuracy.value)


def test_the_threshold_is_the_content_s_own_and_answerless_rollouts_do_not_count():
    pools = {0: pool("4", "", "5"), 1: pool("4")}
    near = {0: np.asarray([0.75, 0.1, 0.1])}
    one, = absences(pools, near, 0.7, PLAIN)
    assert (one.absent, one.present) == (1, 1) and one.absent_fraction.value == 0.5
    other, = absences(pools, near, 0.8, PLAIN)
    assert other.absent == 2
    none, = absences(pools, near, 0.0, PLAIN)
    assert none.absent == 0 and math.isnan(none.kl.value)


def test_where_all_content_is_gone_cf_plus_is_resampling_importance():
    pools = {0: pool("4", "5", "5"), 1: pool("4", "4", "5")}
    one, = absences(pools, {0: -np.ones(3)}, 0.7, PLAIN)
    assert one.accuracy.value == pytest.approx(2 / 3 - 1 / 3)


def test_log_odds_are_antisymmetric_and_zero_for_equal_counts():
    there, back = log_odds((3, 10), (7, 9)), log_odds((7, 9), (3, 10))
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)
    assert log_odds((3, 10), (3, 10)).value == 0
    # Wald: 1.96 * sqrt(1/3.5 + 1/7.5 + 1/7.5 + 1/2.5).
    half = 1.959964 * math.sqrt(1 / 3.5 + 1 / 7.5 + 1 / 7.5 + 1 / 2.5)
    assert (there.high - there.low) / 2 == pytest.approx(half, rel=1e-6)
    assert math.isfinite(log_odds((0, 5), (5, 5)).value)


def test_the_first_sentence_that_says_it_again():
    text = "Nothing at all here. Then it was green. And then red came. And red stayed."
    assert first_return(text, "It is red here.", encode, 0.7) == 2
    assert first_return(text, "It is blue here.", encode, 0.7) is None
    assert first_return("", "It is blue here.", encode, 0.7) is None


def test_resilience_is_a_lower_bound_where_the_content_never_stayed_out():
    one = Resilience(3, (1, 2, 6, 1), (True, True, False, True), 3, 2)
    assert one.mean == 2.5 and one.stayed_fraction == 0.75
