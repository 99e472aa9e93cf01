"""Importance by category: hierarchy, choices, planted effects and what is left unsaid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.aggregates.categories import (
    PLOTS_EXCLUDE,
    CategoryChoices,
    category_table,
    tag_shares,
)
from interp_jax.studies.thought_anchors.aggregates.measures import measure_trace
from tests.studies.thought_anchors.aggregates.synthetic_traces import make_trace, measured, where

KL = "counterfactual_importance_kl"


def with_values(trace, tags, values, accuracy=None):
    size = len(tags)
    return dataclasses.replace(
        trace,
        indices=np.arange(size),
        texts=("s",) * size,
        tags=tuple((tag,) for tag in tags),
        accuracy=np.full(size, 0.5) if accuracy is None else np.asarray(accuracy),
        values={KL: np.asarray(values, float)},
    )


def test_traces_weigh_equally_however_long_they_are():
    base = measured(1)[0]
    long = with_values(base, ["plan_generation"] * 9, [1.0] * 9)
    short = with_values(base, ["plan_generation"], [3.0])
    mean = category_table([long, short], KL).tags["plan_generation"]
    assert mean.over.mean == 2.0 and mean.over.se == pytest.approx(1.0)
    assert mean.sentences == 10 and mean.pooled_mean == pytest.approx(1.2)


def test_choices_by_hand():
    tags = ["plan_generation", "plan_generation", "plan_generation", "self_checking"]
    trace = with_values(measured(1)[0], tags, [-3.0, 0.0, 9.0, 1.0])
    one = lambda **c: category_table([trace], KL, CategoryChoices(**c)).tags  # noqa: E731
    assert one()["plan_generation"].over.mean == 2.0
    assert one(within="median")["plan_generation"].over.mean == 0.0
    assert one(clipped=True)["plan_generation"].over.mean == 3.0
    assert set(one(exclude=PLOTS_EXCLUDE)) == {"plan_generation"}
    assert set(one(exclude=("self_checking",))) == {"plan_generation"}


def test_sentences_after_convergence_are_left_out():
    accuracy = [0.5, 0.5, 1, 1, 1, 1, 1]
    trace = with_values(measured(1)[0], ["plan_generation"] * 7, np.arange(7), accuracy)
    table = lambda rule: category_table([trace], KL, CategoryChoices(convergence=rule))  # noqa: E731
    assert table("settled").tags["plan_generation"].over.mean == 0.5
    assert table("none").tags["plan_generation"].over.mean == 3.0


def test_a_planted_category_is_found_after_correction_and_nothing_else():
    table = category_table(measured(8), KL)
    pairs = {(pair.first, pair.second): pair for pair in table.pairs}
    assert len(pairs) == 3
    for (first, _), pair in pairs.items():
        if first == "plan_generation":
            assert pair.test.difference == pytest.approx(0.5, abs=0.05)
            assert pair.p_t_holm < 1e-6
            assert pair.test.p_wilcoxon == pytest.approx(2 / 2**8)
            assert pair.p_wilcoxon_holm >= 2 * pair.test.p_wilcoxon  # of three pairs
        else:
            assert pair.p_t_holm > 0.05


def test_accuracies_are_turned_so_that_positive_helps():
    trace = measured(1)[0]
    # The released counterfactual accuracy is negative when a sentence helps; these are.
    assert np.nanmin(trace.values["counterfactual_importance_accuracy"]) >= 0
    accuracy = trace.accuracy
    np.testing.assert_allclose(
        trace.values["resampling_importance_accuracy"][:-1], np.diff(accuracy), atol=1e-12
    )


def test_what_was_not_measured_is_absent_and_the_last_sentence_undefined():
    trace = measured(1)[0]
    assert "forced_importance_kl" not in trace.values and "receiver" not in trace.values
    assert np.isnan(trace.values[KL][-1]) and np.isfinite(trace.values[KL][:-1]).all()
    assert category_table([trace], "forced_importance_kl") is None


def test_one_trace_gives_means_without_errors_or_tests():
    table = category_table(measured(1), KL)
    for mean in table.tags.values():
        assert np.isfinite(mean.over.mean) and np.isnan(mean.over.se)
    for pair in table.pairs:
        assert np.isnan([pair.test.p_t, pair.p_t_holm, pair.test.p_wilcoxon]).all()


def test_shares_count_every_tag():
    trace = make_trace(0)
    trace.labeled[0]["function_tags"] = ["plan_generation", "self_checking"]
    trace.labeled[1]["function_tags"] = []
    shares = tag_shares([measure_trace(trace, where())])
    assert sum(one.share for one in shares.values()) == pytest.approx(1.0)
    assert shares["unknown"].sentences == 1 and shares["self_checking"].sentences == 1
    assert list(shares)[-1] == "unknown"


def test_bad_choices():
    with pytest.raises(UserError, match="the tag 'XX'"):
        CategoryChoices(exclude=("XX",))
    with pytest.raises(UserError, match="within = 'mode'"):
        CategoryChoices(within="mode")
    with pytest.raises(UserError, match="convergence rule 'soon'"):
        category_table(measured(1), KL, CategoryChoices(convergence="soon"))
