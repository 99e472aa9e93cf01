"""The closed-form oracles of Thought Anchors: which test holds each, and those not held elsewhere.

`ORACLES` is the index. The rest are oracles that need no model: telescoping with the released
numbers, smoothing as seen in the released range, the finite-sample floor of a KL, labels as a
graph, and the case study (problem 4682).
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.studies.thought_anchors.aggregates.anchors import anchor, anchors
from interp_jax.studies.thought_anchors.aggregates.convergence import sentences_before_convergence
from interp_jax.studies.thought_anchors.aggregates.found import FoundTrace
from interp_jax.studies.thought_anchors.aggregates.matrices import profile_over_traces
from interp_jax.studies.thought_anchors.aggregates.measures import measure_trace
from interp_jax.studies.thought_anchors.answer_divergence import SMOOTHINGS, count_divergence
from interp_jax.studies.thought_anchors.importance import overdeterminedness
from interp_jax.studies.thought_anchors.released import read_trace
from interp_jax.studies.thought_anchors.released_matrices import matrix_from_impacts
from interp_jax.studies.thought_anchors.vertical import head_kurtosis, vertical_scores

TESTS = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("name", ["qwen", "llama"])

HERE = "studies/thought_anchors/"
ORACLES = {
    "splitter and normaliser golden tables": (
        "text/test_sentences.py::test_golden_table",
        "text/test_answers.py::test_normaliser_golden_table",
        "text/test_answers.py::test_boxes",
    ),
    "KL golden values and laws": (
        HERE + "test_answer_divergence.py::test_golden_values",
        HERE + "test_answer_divergence.py::test_value_before_the_clip",
        HERE + "test_answer_divergence.py::test_laws",
        HERE
        + "test_answer_divergence.py::test_scaling_of_counts_does_not_matter_without_smoothing",
    ),
    "resampling accuracy telescopes": (
        HERE + "test_importance.py::test_resampling_accuracy_telescopes",
        HERE + "test_oracles.py::test_the_released_numbers_telescope",
    ),
    "equal rollouts have no importance": (
        HERE + "test_importance.py::test_equal_pools_have_no_importance",
        HERE + "test_importance.py::test_no_dissimilar_rollouts_give_no_counterfactual_value",
    ),
    "sentence matrix bounds and thresholds": (
        HERE + "test_sentence_matrix.py::test_bounds",
        HERE + "test_sentence_matrix.py::test_thresholds_that_match_everything_or_nothing",
    ),
    "attention on sentences and prompt sums to one": (
        HERE + "test_receiver_heads.py::test_attention_on_sentences_and_prompt_sums_to_one",
    ),
    "vertical score of uniform causal attention": (
        HERE + "test_vertical.py::test_uniform_causal_attention",
        HERE + "test_oracles.py::test_vertical_score_by_hand",
    ),
    "the last sentences have no vertical score": (
        HERE + "test_vertical.py::test_short_traces_have_no_scores",
    ),
    "kurtosis closed forms": (HERE + "test_vertical.py::test_kurtosis_closed_forms",),
    "kurtosis is affine invariant": (HERE + "test_vertical.py::test_kurtosis_is_affine_invariant",),
    "a planted head is found": (HERE + "test_vertical.py::test_planted_head_is_found",),
    "suppression is causal to the bit": (
        HERE
        + "test_suppression_matrix.py::test_targets_before_the_source_are_the_floor_to_the_bit",
    ),
    "hiding nothing changes nothing": (
        HERE + "test_suppression_matrix.py::test_a_span_of_nothing_changes_nothing",
        HERE + "test_suppression_matrix.py::test_a_sentence_beyond_every_window_changes_nothing",
    ),
    "what is left is renormalised": (
        HERE + "test_suppression_matrix.py::test_hidden_keys_renormalise_the_rest",
    ),
    "suffix recompute is full recompute": (
        HERE + "test_suppression_matrix.py::test_suffix_is_full",
    ),
    "heads add up to the attention output": (
        HERE + "test_head_ablation.py::test_oracle_20_heads_add_up",
    ),
    "a token that left the kept set costs the filler": (
        HERE
        + "test_suppression_compat.py"
        + "::test_a_token_that_left_the_kept_set_counts_its_probability_times_the_filler",
    ),
    "all sentences hidden is seeing the prompt only": (
        HERE + "test_suppression_matrix.py::test_all_sentences_hidden_is_seeing_the_prompt_only",
    ),
    "streamed KL is direct KL, shift invariant, not negative": (
        HERE + "test_suppression_matrix.py::test_divergence_is_the_kl",
        HERE + "test_comparing.py::test_the_exact_kl",
    ),
    "normalised rows": (
        HERE + "test_normalise.py::test_normalised_rows",
        HERE + "test_released.py::test_released_suppression_matrix",
    ),
    "block reduction is the mean of blocks": (
        HERE + "test_receiver_heads.py::test_reduced_in_the_pass_is_averaged_outside",
    ),
    "released sentences, matrices and summaries": (
        HERE + "test_released.py::test_splitter_reproduces_the_released_sentences",
        HERE + "test_released.py::test_overdeterminedness_of_released_replacements",
        HERE + "test_released.py::test_released_importance_matrix_and_its_summary",
        HERE + "test_released.py::test_aggregates_of_the_case_study",
        HERE + "test_released.py::test_released_different_trajectories_fraction",
    ),
}
"""What an oracle says -> the tests that hold it."""


@pytest.mark.parametrize("oracle", ORACLES)
def test_every_oracle_has_its_test(oracle):
    for place in ORACLES[oracle]:
        file, name = place.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4),
    st.lists(st.integers(0, 50), min_size=4, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_each_smoothing_has_its_largest_value(first, second):
    """Adding one: at most ln(n2 + 1) with unsmoothed weights, less with smoothed ones."""
    bound = math.log(sum(second) + 4) + 1e-9
    assert count_divergence(first, second, SMOOTHINGS["raw_laplace"]) <= bound
    assert count_divergence(first, second, SMOOTHINGS["laplace"]) <= bound
    assert count_divergence([100, 0], [0, 100], SMOOTHINGS["raw_laplace"]) == pytest.approx(
        math.log(101)
    )


def test_released_labels_were_made_with_the_tiny_smoothing(released_folder):
    """Values beyond ln 101 cannot come from about 100 rollouts with one added to each count."""
    labeled = read_trace(released_folder("llama")).labeled
    largest = max(record["counterfactual_importance_kl"] for record in labeled)
    assert largest > 4 * math.log(101)
    # All dissimilar rollouts give one answer that the other side lacks: D = ln(n2 / alpha), and
    # n2 comes out whole. It is above 100: the other side is the next pool AND the similar ones.
    other_side = math.exp(largest) * 1e-9
    assert other_side == pytest.approx(192, abs=0.01)
    ours = count_divergence([5, 0], [0, 192], SMOOTHINGS["released"])
    # Each further answer of the other side takes some 1e-8 nats away.
    assert 0 <= ours - largest < 1e-5


def test_finite_sample_floor_of_the_divergence():
    """Equal distributions: mean plug-in KL is near (V - 1)/2 (1/n1 + 1/n2)."""
    rng = np.random.default_rng(0)
    n1, n2, share = 400, 500, [0.4, 0.3, 0.2, 0.1]
    first, second = rng.multinomial(n1, share, 3000), rng.multinomial(n2, share, 3000)
    floor = 3 / 2 * (1 / n1 + 1 / n2)
    mean = count_divergence(first, second, SMOOTHINGS["released"]).mean()
    assert mean == pytest.approx(floor, rel=0.08)


def test_vertical_score_by_hand():
    """Uniform causal attention, one token per sentence: v(j) is the mean of 1/(k+1), k >= j+P."""
    size, proximity = 7, 2
    attention = np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None]
    scores = vertical_scores(attention, proximity=proximity)
    for j in range(size - proximity):
        expected = np.mean([1 / (k + 1) for k in range(j + proximity, size)])
        assert scores[j] == pytest.approx(expected)
    assert np.isnan(scores[-proximity:]).all()
    assert np.isnan(head_kurtosis(np.full(4, 0.1)))


@BOTH
def test_the_released_numbers_telescope(released_folder, name):
    """Sum of resampling accuracy = last accuracy - first.

    For 4682 the released file says: accuracy before sentence 0 is 80/99 = .808081, before the last
    it is 1, and the sum is 19/99 = .191919. (The spec has the first and the third the other way
    round, in sections 10 and 17.1; the file is what counts.)
    """
    labeled = read_trace(released_folder(name)).labeled
    first, last = labeled[0]["accuracy"], labeled[-1]["accuracy"]
    total = sum(record["resampling_importance_accuracy"] for record in labeled)
    assert total == pytest.approx(last - first, abs=1e-12)
    expected = {"qwen": (80 / 99, 1.0), "llama": (0.3, 0.0)}[name]
    assert (first, last) == pytest.approx(expected, abs=1e-12)


@BOTH
def test_released_labels_are_one_tag_each_and_a_graph_without_cycles(released_folder, name):
    labeled = read_trace(released_folder(name)).labeled
    assert all(len(record["function_tags"]) == 1 for record in labeled)
    known = {record["chunk_idx"] for record in labeled}
    for record in labeled:
        earlier = {int(index) for index in record["depends_on"]}
        assert earlier <= known and all(index < record["chunk_idx"] for index in earlier)


@BOTH
def test_released_ranges(released_folder, name):
    """KLs are not negative, shares lie in [0, 1], and a share is a count of at most 100."""
    trace = read_trace(released_folder(name))
    for record in trace.labeled:
        for kind in ("resampling", "counterfactual", "forced"):
            assert record[f"{kind}_importance_kl"] >= 0
            assert -1 <= record[f"{kind}_importance_accuracy"] <= 1
        for share in ("accuracy", "different_trajectories_fraction", "overdeterminedness"):
            assert 0 <= record[share] <= 1
            counts = np.arange(1, 101)
            whole = record[share] * counts
            assert np.abs(whole - np.rint(whole)).min() < 1e-9
    assert set(trace.resampled) == {record["chunk_idx"] for record in trace.labeled}
    assert all(1 <= len(texts) <= 100 for texts in trace.resampled.values())


@BOTH
def test_overdeterminedness_differs_only_by_dropped_rollouts(released_folder, name):
    """The records count the m rollouts with an answer, the lists all n.

    One m <= n must fit every share of a record, and at most n - m distinct texts be gone.
    """
    trace = read_trace(released_folder(name))
    shares = ("accuracy", "different_trajectories_fraction", "overdeterminedness")
    for record in trace.labeled[:-1]:
        texts = trace.resampled[record["chunk_idx"]]
        n, distinct = len(texts), len(set(texts))
        fits = []
        for m in range(1, n + 1):
            counts = [record[share] * m for share in shares]
            kept = round((1 - record["overdeterminedness"]) * m)
            whole = all(abs(count - round(count)) < 1e-9 for count in counts)
            fits.append(whole and 0 <= distinct - kept <= n - m)
        assert any(fits), record["chunk_idx"]
        if fits[-1] and overdeterminedness(texts) == pytest.approx(record["overdeterminedness"]):
            assert distinct == round((1 - record["overdeterminedness"]) * n)


def case(released_folder):
    folder = released_folder("qwen")
    where = FoundTrace(folder, "deepseek-r1-distill-qwen-14b", "correct", "problem_4682")
    return measure_trace(read_trace(folder), where)


def test_the_case_study(released_folder):
    """Problem 4682: sentence 13 turns from counting hexadecimal digits to converting."""
    trace = case(released_folder)
    raw = read_trace(released_folder("qwen"))
    assert raw.base_solution["answer"] == "19" and raw.base_solution["is_correct"]
    assert len(trace) == 145 and len(raw.step_importance) == 145
    assert len(raw.step_importance[0]["target_impacts"]) == 144
    before, turn = anchor(trace, 12), anchor(trace, 13)
    assert before.tags == ("uncertainty_management",) and before.accuracy == 0.63
    assert turn.tags == ("plan_generation",)
    assert turn.accuracy == pytest.approx(44 / 97, abs=1e-12)
    assert turn.accuracy_after - turn.accuracy == pytest.approx(0.415079, abs=5e-7)
    expected = {
        "resampling_importance_accuracy": 0.415079,
        "resampling_importance_kl": 0.484287,
        "counterfactual_importance_accuracy": 0.420770,  # released as -.420770: it helps
        "counterfactual_importance_kl": 0.501038,
        "different_trajectories_fraction": 96 / 97,
        "overdeterminedness": 0.649485,
    }
    for measure, value in expected.items():
        assert turn.values[measure] == pytest.approx(value, abs=5e-7), measure
    assert turn.values["outgoing"] == pytest.approx(0.2446, abs=5e-5)
    assert raw.labeled[13]["depends_on"] == ["12"]
    # It comes out first by itself: the largest by four measures, before the answer is settled.
    assert anchors(trace)[0].index == 13
    assert {"resampling_importance_kl", "resampling_importance_accuracy", "outgoing"} <= set(
        turn.largest_for
    )
    assert sentences_before_convergence(trace.accuracy) > 13


def test_distance_profile_of_the_case_study(released_folder):
    profile = profile_over_traces([case(released_folder)], "suppression")
    np.testing.assert_allclose(
        profile.mean[[0, 1, 2, 4, 9, 39]], [7.66, 3.58, 2.13, 1.08, -0.02, -0.37], atol=5e-3
    )
    assert np.isnan(profile.se).all()  # one trace
    assert 0.25 < profile.explained.mean < 0.4


def test_mean_sentences_of_the_release_is_not_claimed_from_two(released_folder):
    """The two traces at hand have 145 and 26 sentences; the release's mean of 144.25 needs all."""
    sizes = [len(read_trace(released_folder(name)).labeled) for name in ("qwen", "llama")]
    assert sizes == [145, 26]
    matrix = matrix_from_impacts(read_trace(released_folder("qwen")).step_importance, 145)
    assert np.isfinite(matrix).sum() == 145 * 144 // 2
