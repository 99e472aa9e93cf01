"""Importance from rollouts: closed forms, signs, intervals and nulls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.answer_divergence import SMOOTHINGS, count_divergence
from interp_jax.studies.thought_anchors.importance import (
    SIGNS,
    overdeterminedness,
    sentence_importance,
)
from interp_jax.studies.thought_anchors.intervals import newcombe_interval, wilson_interval
from interp_jax.studies.thought_anchors.rollout_pools import ImportanceConfig, RolloutPool

NO_DRAWS = ImportanceConfig(draws=0)


def pool(answers, right="7", cosines=None, replacements=None):
    return RolloutPool(tuple(answers), [a == right for a in answers], cosines, replacements)


pools = st.lists(
    st.lists(st.sampled_from(["7", "8", "9", ""]), min_size=1, max_size=8), min_size=2, max_size=6
)


@given(pools)
@settings(max_examples=60, deadline=None)
def test_resampling_accuracy_telescopes(answers):
    records = sentence_importance({i: pool(a) for i, a in enumerate(answers)}, NO_DRAWS)
    kept = [record for record in records if record.kept]
    total = sum(record.resampling_importance_accuracy.value for record in kept)
    if kept:
        ends = kept[-1].accuracy.value - kept[0].accuracy.value
        assert total == pytest.approx(ends, abs=1e-12)
        assert kept[-1].next_index is None
        assert kept[-1].resampling_importance_accuracy.value == 0


@pytest.mark.core
@pytest.mark.parametrize("name", sorted(SMOOTHINGS))
def test_equal_pools_have_no_importance(name):
    same = pool(["7", "7", "8", "9"], cosines=[0.1, 0.9, 0.2, 0.9])
    config = ImportanceConfig(smoothing=name, draws=0)
    first, _ = sentence_importance({0: same, 1: same}, config)
    assert first.resampling_importance_accuracy.value == 0
    assert first.resampling_importance_kl.value == pytest.approx(0, abs=1e-12)


def test_no_dissimilar_rollouts_give_no_counterfactual_value():
    here = pool(["7", "8"], cosines=[0.8, 0.95])  # the threshold itself counts as similar
    first, last = sentence_importance({0: here, 1: pool(["8"], cosines=[0.0])}, NO_DRAWS)
    assert first.counterfactual_importance_accuracy.value == 0
    assert first.counterfactual_importance_kl.value == 0
    assert first.different_trajectories_fraction.value == 0
    assert last.counterfactual_importance_kl.value == 0  # no next sentence


@pytest.mark.core
def test_by_hand():
    here = pool(["7", "8", "8", "9", ""], cosines=[0.9, 0.1, 0.2, np.nan, 0.1])
    there = pool(["7", "7", "8", "7"], cosines=[1.0] * 4)
    config = ImportanceConfig(smoothing="released", draws=0)
    first, _ = sentence_importance({3: here, 5: there}, config)
    assert (first.chunk_idx, first.next_index, first.rollouts, first.kept) == (3, 5, 5, 4)
    assert first.resampling_importance_accuracy.value == pytest.approx(0.75 - 0.25)
    assert first.counterfactual_importance_accuracy.value == pytest.approx(0 - 0.75)
    # A pair without an embedding stays in the denominator.
    assert first.different_trajectories_fraction.value == 2 / 4
    how = SMOOTHINGS["released"]
    assert first.resampling_importance_kl.value == pytest.approx(
        float(count_divergence([1, 2, 1], [3, 1, 0], how))
    )
    # Dissimilar (two 8s) against the next pool joined with the similar ones (one 7). The 9 is on
    # neither side, so it is not in the vocabulary.
    assert first.counterfactual_importance_kl.value == pytest.approx(
        float(count_divergence([0, 2], [4, 1], how))
    )


def test_signs_make_a_helpful_sentence_positive():
    without = pool(["8"] * 6 + ["7"] * 2, cosines=[0.1] * 8)
    with_it = pool(["7"] * 8, cosines=[0.1] * 8)
    forced = {0: without, 1: with_it}
    first = sentence_importance({0: without, 1: with_it}, NO_DRAWS, forced=forced)[0]
    for name, sign in SIGNS.items():
        assert sign * getattr(first, name).value == pytest.approx(0.75)
    config = ImportanceConfig(draws=0, absolute=True)
    first = sentence_importance({0: without, 1: with_it}, config)[0]
    assert first.counterfactual_importance_accuracy.value == pytest.approx(0.75)


def test_two_outcomes_and_shared_vocabulary():
    here, there = pool(["8", "9", "7", "7"]), pool(["7", "7", "7", "8"])
    other = pool(["1", "2", "3", "4"])
    config = ImportanceConfig(smoothing="correctness", draws=0)
    first = sentence_importance({0: here, 1: there}, config)[0]
    assert first.resampling_importance_kl.value == pytest.approx(
        float(count_divergence([2, 2], [1, 3], SMOOTHINGS["correctness"]))
    )
    config = ImportanceConfig(smoothing="laplace", shared_vocabulary=True, draws=0)
    first = sentence_importance({0: here, 1: there, 2: other}, config)[0]
    assert first.resampling_importance_kl.value == pytest.approx(
        float(count_divergence([2, 1, 1, 0, 0, 0, 0], [3, 1, 0, 0, 0, 0, 0], SMOOTHINGS["laplace"]))
    )


def test_unanswered_rollouts():
    here, there = pool(["7", "", "None", "8"]), pool(["7", "7", "", ""])
    first, second = sentence_importance({0: here, 1: there}, NO_DRAWS)
    assert (first.kept, first.accuracy.value, second.accuracy.value) == (2, 0.5, 1.0)
    config = ImportanceConfig(draws=0, unanswered="outcome")
    first, second = sentence_importance({0: here, 1: there}, config)
    assert (first.kept, first.accuracy.value, second.accuracy.value) == (4, 0.25, 0.5)
    config = ImportanceConfig(draws=0, none_is_outcome=True)
    first, _ = sentence_importance({0: here, 1: there}, config)
    assert first.resampling_importance_accuracy.value == 0.5
    assert first.resampling_importance_kl.value == pytest.approx(
        float(count_divergence([1, 1, 1], [2, 0, 0], SMOOTHINGS["jeffreys"]))
    )


def test_unmeasured_similarity_is_unknown_not_zero():
    first = sentence_importance({0: pool(["7"]), 1: pool(["8"])}, NO_DRAWS)[0]
    assert np.isnan(first.counterfactual_importance_kl.value)
    assert np.isnan(first.different_trajectories_fraction.value)


def test_pool_after_the_last_sentence_serves_the_last():
    given = {0: pool(["8", "8"]), 1: pool(["8", "7"]), 2: pool(["7", "7"])}
    records = sentence_importance(given, NO_DRAWS, sentences=2)
    assert [record.chunk_idx for record in records] == [0, 1]
    assert records[1].resampling_importance_accuracy.value == 0.5


def test_intervals_and_null_tell_effect_from_chance():
    rng = np.random.default_rng(0)
    same = [pool(rng.choice(["7", "8", "9"], 60)) for _ in range(2)]
    apart = [pool(["8"] * 45 + ["7"] * 15), pool(["7"] * 50 + ["8"] * 10)]
    config = ImportanceConfig(draws=400)
    chance = sentence_importance(dict(enumerate(same)), config)[0]
    effect = sentence_importance(dict(enumerate(apart)), config)[0]
    for name in ("resampling_importance_accuracy", "resampling_importance_kl"):
        estimate = getattr(effect, name)
        assert estimate.low < estimate.value < estimate.high
        assert estimate.low > estimate.null_high
        assert estimate.p_value < 0.01
        assert getattr(chance, name).p_value > 0.05
    # The plug-in KL has a floor of about (V - 1) / 2 * (1/n1 + 1/n2), which the null shows.
    floor = (3 - 1) / 2 * (1 / 60 + 1 / 60)
    assert chance.resampling_importance_kl.null_mean == pytest.approx(floor, rel=0.25)


def test_counterfactual_draws():
    rng = np.random.default_rng(1)
    here = pool(["8"] * 20 + ["7"] * 20, cosines=[0.1] * 20 + [0.9] * 20)
    there = pool(rng.choice(["7", "8"], 40, p=[0.8, 0.2]), cosines=rng.uniform(size=40))
    config = ImportanceConfig(draws=300)
    first = sentence_importance({0: here, 1: there}, config)[0]
    estimate = first.counterfactual_importance_accuracy
    assert estimate.low <= estimate.value <= estimate.high < 0
    assert estimate.p_value < 0.01
    assert first.counterfactual_importance_kl.p_value < 0.01


def test_draws_depend_on_seed_and_sentence_only():
    given = {i: pool(["7", "8", "8", "9", "7"] * 4) for i in range(3)}
    config = ImportanceConfig(draws=50)
    whole = sentence_importance(given, config)
    part = sentence_importance({1: given[1], 2: given[2]}, config)
    assert whole[1] == part[0]
    other = sentence_importance(given, ImportanceConfig(draws=50, seed=1))
    assert whole[1] != other[1]


def test_bootstrap_covers():
    """The 90 % interval of an accuracy difference covers the truth about nine times in ten."""
    rng = np.random.default_rng(2)
    config = ImportanceConfig(draws=200, confidence=0.9)
    covered = 0
    for trial in range(150):
        pools = {
            2 * trial: pool(rng.choice(["7", "8"], 60, p=[0.4, 0.6])),
            2 * trial + 1: pool(rng.choice(["7", "8"], 60, p=[0.7, 0.3])),
        }
        estimate = sentence_importance(pools, config)[0].resampling_importance_accuracy
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.82 <= covered / 150 <= 0.97


@pytest.mark.core
def test_record_has_the_released_names_in_order():
    first = sentence_importance({0: pool(["7"]), 1: pool(["8"])}, NO_DRAWS)[0]
    names = list(first.record())
    assert names[:4] == [
        "chunk_idx",
        "accuracy",
        "resampling_importance_accuracy",
        "resampling_importance_kl",
    ]
    assert names[-2:] == ["different_trajectories_fraction", "overdeterminedness"]


def test_overdeterminedness():
    assert overdeterminedness(["a", "a", "b", "a"]) == 0.5
    assert overdeterminedness(["a", "b"]) == 0
    assert overdeterminedness([]) == 0


@pytest.mark.core
def test_wilson_interval():
    low, high = wilson_interval([0, 5, 10, 0], [10, 10, 10, 0])
    # 5 of 10: (0.236593, 0.763407); 0 of 10: (0, 0.277533).
    np.testing.assert_allclose(low, [0, 0.236593, 0.722467, 0], atol=1e-6)
    np.testing.assert_allclose(high, [0.277533, 0.763407, 1, 1], atol=1e-6)


def test_newcombe_interval():
    # Newcombe (1998), method 10, 56/70 against 48/80: 0.0524 to 0.3339.
    low, high = newcombe_interval(56, 70, 48, 80)
    assert (round(float(low), 4), round(float(high), 4)) == (0.0524, 0.3339)


def test_uneven_fields_are_refused():
    with pytest.raises(UserError, match="2 entries of correct beside 1 answers"):
        RolloutPool(("7",), (True, False))
