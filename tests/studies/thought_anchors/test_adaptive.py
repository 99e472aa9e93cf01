"""Adaptive numbers of rollouts: looks at fixed numbers, in the order of the rollouts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.studies.thought_anchors.adaptive import StoppingRule
from interp_jax.studies.thought_anchors.intervals import wilson_interval
from interp_jax.studies.thought_anchors.sampling import rows_for

OUTCOMES = st.lists(st.sampled_from([True, False, None]), max_size=60)
RULES = st.builds(
    StoppingRule, most=st.integers(2, 40), width=st.none() | st.floats(0.05, 0.95),
    least=st.integers(2, 20), step=st.integers(1, 9),
)


def test_without_a_width_every_sentence_gets_all():
    assert StoppingRule(most=7).looks == (7,)
    assert StoppingRule(most=7).wanted([True] * 3) == 7


def test_looks_are_at_the_minimum_and_every_step_after_it():
    assert StoppingRule(40, 0.3, least=16, step=8).looks == (16, 24, 32, 40)
    assert StoppingRule(10, 0.3, least=16, step=8).looks == (10,)


@pytest.mark.parametrize(
    ("right", "wrong", "wanted"),
    [
        # Wilson widths at 95 %: 0.194 for 0 of 16, 0.439 for 8 of 16, 0.138 for 0 of 24.
        (0, 16, 16),
        (8, 8, 24),
        (16, 0, 16),
    ],
)
def test_a_sentence_stops_once_its_interval_is_narrow(right, wrong, wanted):
    rule = StoppingRule(40, 0.2, least=16, step=8)
    assert rule.wanted([True] * right + [False] * wrong) == wanted


def test_rollouts_without_an_answer_do_not_narrow_the_interval():
    rule = StoppingRule(40, 0.2, least=16, step=8)
    assert rule.wanted([False] * 15 + [None]) == 24
    assert rule.wanted([None] * 16) == 24


@settings(max_examples=60, deadline=None)
@given(RULES, OUTCOMES)
def test_between_the_minimum_and_the_most_and_no_look_is_skipped(rule, outcomes):
    wanted = rule.wanted(outcomes)
    assert min(rule.least, rule.most) <= wanted <= rule.most
    if wanted <= len(outcomes) and wanted < rule.most:
        known = [one for one in outcomes[:wanted] if one is not None]
        low, high = wilson_interval(sum(known), len(known))
        assert high - low < rule.width
    for look in rule.looks:
        if look < wanted:
            assert not rule.narrow(outcomes[:look])


@settings(max_examples=60, deadline=None)
@given(RULES, OUTCOMES, st.integers(0, 60))
def test_what_comes_later_changes_no_decision(rule, outcomes, cut):
    """So a run that was stopped anywhere decides as an unbroken one."""
    whole, part = rule.wanted(outcomes), rule.wanted(outcomes[:cut])
    assert part <= whole
    if part <= cut:
        assert part == whole


@settings(max_examples=60, deadline=None)
@given(RULES, st.lists(OUTCOMES, min_size=1, max_size=5), st.data())
def test_a_round_asks_for_the_same_wherever_it_is_taken_up(rule, sentences, data):
    """Rounds are walked once without a break, and once with what is there cut down at random."""

    def state(cuts):
        there = {i: outcomes[: cuts[i]] for i, outcomes in enumerate(sentences)}
        wanted = {i: rule.wanted(own) for i, own in there.items()}
        return wanted, [i for i in there if len(there[i]) < wanted[i]]

    cuts, rounds = dict.fromkeys(range(len(sentences)), 0), []
    while (now := state(cuts))[1]:
        asked = rule.round_of(*now)
        rounds.append(asked)
        # In the middle of the round, some of it made: it asks for the same.
        part = {
            i: cuts[i] + data.draw(st.integers(0, len(asked.get(i, ())))) for i in cuts
        }
        unfinished = any(part[i] < asked[i].stop for i in asked)
        if unfinished and all(part[i] <= len(sentences[i]) for i in part):
            assert rule.round_of(*state(part)) == asked
        after = {i: max(cuts[i], asked[i].stop) if i in asked else cuts[i] for i in cuts}
        if any(after[i] > len(sentences[i]) for i in after):
            break
        cuts = after
    for one, other in zip(rounds, rounds[1:], strict=False):
        assert set(other) <= set(one)  # who stopped stays stopped
        assert all(other[i].start == one[i].stop for i in other)


def test_rows_of_a_batch_follow_what_is_asked():
    assert [rows_for(n, 64) for n in (0, 1, 2, 3, 5, 8, 17, 40, 60, 64, 500)] == [
        1, 1, 2, 3, 6, 8, 24, 48, 64, 64, 64,
    ]
    assert rows_for(500, 20) == 20 and rows_for(13, 14) == 14
