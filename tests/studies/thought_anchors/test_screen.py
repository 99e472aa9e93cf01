"""Screening: what counts as a good problem, and that it goes on where it was stopped."""

from __future__ import annotations

import math

import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.run import run_screen
from interp_jax.studies.thought_anchors.screen import (
    BY_ACCURACY,
    BY_ENTROPY,
    candidates,
    choose,
    summarise,
)
from tests.studies.thought_anchors.small_study import small_config, small_model


def trace(answer="7", correct=False, finished=True, sentences=10):
    answer = answer if finished else ""
    return {"answer": answer, "correct": correct and finished, "finished": finished,
            "sentences": sentences, "text": "", "tokens": 9}  # fmt: skip


def row(spec, *traces):
    return summarise(spec, traces, ThoughtAnchorsConfig())


def test_a_row_counts_what_it_says():
    found = row(
        "a", trace("7", True), trace("8"), trace("8", sentences=3), trace("9", finished=False)
    )
    assert (found.samples, found.correct, found.accuracy) == (4, 1, 0.25)
    assert (found.finished, found.fit, found.sentences) == (0.75, 0.5, 8.25)
    # Three outcomes: 7 once, 8 twice, no answer once.
    assert found.entropy == pytest.approx(1.5 * math.log(2))
    assert 0.04 < found.low < 0.25 < found.high < 0.7
    assert found.in_window


def test_the_window_goes_before_entropy_and_fit_traces_are_needed():
    good = row("good", trace("7", True), trace("8"), trace("7", True), trace("6"))
    short = row("short", *[trace("7", k < 2, sentences=2) for k in range(4)])
    varied = row("varied", *[trace(str(k)) for k in range(4)])
    chosen = choose([short, varied, good])
    assert (chosen.chosen.spec, chosen.chosen_by) == ("good", BY_ACCURACY)
    chosen = choose([short, varied])
    assert (chosen.chosen.spec, chosen.chosen_by) == ("varied", BY_ENTROPY)
    assert "no problem had an accuracy" in chosen.text()
    assert choose([short]).chosen is None and "No problem" in choose([short]).text()


def test_what_was_seen_more_often_is_trusted_more():
    lucky = row("lucky", trace("7", True), trace("8"))
    known = row("known", *[trace("7", k < 3) for k in range(10)])
    assert choose([lucky, known]).chosen.spec == "known"


def test_candidates_are_drawn_in_turn_and_an_unknown_data_set_is_refused():
    config = ThoughtAnchorsConfig(screen=5, screen_datasets=("gcd", "chain_sum"), seed=3)
    assert [p.source for p in candidates(config)] == [
        f"reasoning_gym:{name}:3:{index}"
        for index, name in ((0, "gcd"), (0, "chain_sum"), (1, "gcd"), (1, "chain_sum"), (2, "gcd"))
    ]
    with pytest.raises(UserError, match="chain_sums"):
        candidates(ThoughtAnchorsConfig(screen=2, screen_datasets=("chain_sums",)))


class Killed(BaseException):
    """Stops a run at once."""


def test_a_screen_that_was_killed_goes_on(tmp_path, monkeypatch):
    config = small_config(
        tmp_path, prompt=None, rule=None, screen=4, screen_datasets=("chain_sum",),
        screen_samples=2, screen_refine=1, screen_refined_samples=4, max_new_tokens=20,
        min_sentences=1,
    )
    lm, append, count = small_model(), Journal.append, [0]

    def die(journal, name, record):
        append(journal, name, record)
        count[0] += 1
        if count[0] == 5:
            raise Killed

    monkeypatch.setattr(Journal, "append", die)
    with pytest.raises(Killed):
        run_screen(config, lm)
    result = run_screen(config, lm)
    assert count[0] == 4 * 2 + 2
    assert sorted(r.samples for r in result.table) == [2, 2, 2, 4]
    assert (tmp_path / "screen.json").exists()
    again = run_screen(config, lm)
    assert count[0] == 4 * 2 + 2 and again == result
