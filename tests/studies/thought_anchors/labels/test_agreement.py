"""Agreement in closed form: kappa, per-tag counts, links."""

from __future__ import annotations

import math

import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.labels.agreement import LinkAgreement, agreement
from interp_jax.studies.thought_anchors.labels.labels import Labels
from interp_jax.studies.thought_anchors.labels.taxonomy import TAGS

pytestmark = pytest.mark.core

A, B, C = (tag.name for tag in TAGS[:3])


def labels(tags, links=None):
    links = links or [()] * len(tags)
    return Labels(tuple((tag,) for tag in tags), tuple(links), "test", "0")


def test_kappa_of_a_table_worked_by_hand():
    """20 and 15 agreements of 50; 25:25 against 30:20. Chance .5, observed .7, kappa .4."""
    ours = [A] * 25 + [B] * 25
    theirs = [A] * 20 + [B] * 5 + [A] * 10 + [B] * 15
    found = agreement(labels(ours), labels(theirs))
    assert found.accuracy == pytest.approx(0.7, abs=1e-12)
    assert found.kappa == pytest.approx(0.4, abs=1e-12)
    assert found.commonest == pytest.approx(0.6, abs=1e-12)
    first = found.tags[A]
    assert (first.ours, first.theirs, first.both) == (25, 30, 20)
    assert first.precision == 0.8 and first.recall == pytest.approx(2 / 3, abs=1e-12)
    assert math.isnan(found.tags[C].precision) and math.isnan(found.tags[C].recall)


def test_the_ends():
    same = agreement(labels([A, B, C]), labels([A, B, C]))
    assert same.accuracy == same.kappa == 1.0
    # Agreeing by one tag alone says nothing; disagreeing throughout is below chance.
    assert math.isnan(agreement(labels([A, A]), labels([A, A])).kappa)
    assert agreement(labels([A, B]), labels([B, A])).kappa == -1.0
    for ours, theirs in (([A], [A, B]), ([], [])):
        with pytest.raises(UserError, match="two labellings of one trace"):
            agreement(labels(ours), labels(theirs))


def test_only_the_main_tag_counts():
    both = Labels(((A, B), (B, A)), ((), ()), "test", "0")
    assert agreement(both, labels([A, A])).accuracy == 0.5


def test_links_as_pairs_beside_linking_all_to_the_one_before():
    ours = labels([A] * 4, [(), (0,), (0,), (0, 2)])
    theirs = labels([A] * 4, [(), (0,), (1,), (0,)])
    found = agreement(ours, theirs)
    assert found.links == LinkAgreement(4, 3, 2)
    assert found.links.precision == 0.5 and found.links.recall == pytest.approx(2 / 3, abs=1e-12)
    assert found.links.f1 == pytest.approx(4 / 7, abs=1e-12)
    assert found.far == LinkAgreement(2, 1, 1)  # (2, 0) and (3, 0) against (3, 0)
    assert found.previous == LinkAgreement(3, 3, 2)
    none = agreement(labels([A, A]), labels([A, A])).links
    assert math.isnan(none.precision) and math.isnan(none.recall) and math.isnan(none.f1)


def test_the_table_names_every_tag():
    table = agreement(labels([A, B]), labels([A, C])).table()
    assert "2 sentences: accuracy 0.500 (commonest tag 0.500), kappa 0.333" in table
    assert all(tag.name in table for tag in TAGS) and "all to the one before" in table
