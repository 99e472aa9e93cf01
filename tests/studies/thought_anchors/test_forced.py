"""Forced answers: how the answer is opened, what is read of it, and whose importance it is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.forced import (
    BOX,
    LEAD_INS,
    ForcedAnswer,
    ForcedAnswers,
    ForcedReader,
    forced_statement,
    lead_in,
)
from interp_jax.studies.thought_anchors.importance import sentence_importance
from interp_jax.studies.thought_anchors.problems import prompt_problem
from interp_jax.studies.thought_anchors.rollout_pools import ImportanceConfig, RolloutPool
from interp_jax.text.answers import ANSWER_RULES, answer_rule
from interp_jax.text.sentences import split_sentences


def read(continuation, rule, *, opened=None, ended=False):
    opened = LEAD_INS[rule] if opened is None else opened
    said = forced_statement(continuation, opened, rule, ended=ended)
    return answer_rule(rule).read(said) if said else ""


def test_every_rule_has_a_lead_in():
    assert set(LEAD_INS) == set(ANSWER_RULES)


@pytest.mark.parametrize(
    ("kept", "chosen", "expected"),
    [
        ("Q\n\nSo 2 + 2 is 4.", None, "\n\nThe answer is"),
        ("Q\n\nSo 2 + 2 is 4.\n", None, "\nThe answer is"),
        ("Q\n\nSo 2 + 2 is 4.\n\n", None, "The answer is"),
        ("Q\n<think>\nSo 2 + 2 is 4.", None, "\n</think>\n\nThe answer is"),
        ("Q <think> a </think> So 2 + 2 is 4.", None, "\n\nThe answer is"),
        ("So.", "reference", "\n</think>\n\nTherefore, the final answers is \\boxed{"),
        ("So.", " I say: ", " I say: "),
    ],
)
def test_the_answer_is_opened_after_a_blank_line_or_the_end_of_the_thinking(kept, chosen, expected):
    assert lead_in(kept, "stated", chosen) == expected


@pytest.mark.parametrize(
    ("rule", "continuation", "expected"),
    [
        ("stated", " **Blue**. It is not red. The answer is red.", "blue"),
        ("stated", " 1.5.\n", "1.5"),
        ("stated", "\n\nseven\nor eight", "seven"),
        ("last_number", " 3 + 4 = 7. Not 9.", "7"),
        ("last_number", " 1,250.\n", "1250"),
        ("yes_no", " No, since all cats are. Yes.", "no"),
        ("choice", "B) because A is wrong.\n", "B"),
        ("last_line", " she said so. And left.", "she said so"),
        ("exact_line", " 1 0 1\n0 0 0", "1 0 1"),
        ("boxed", r"\dfrac12} or \boxed{3}", r"\frac12"),
    ],
)
def test_the_answer_is_what_follows_the_lead_in(rule, continuation, expected):
    assert read(continuation, rule) == expected


@pytest.mark.parametrize(
    ("rule", "continuation", "ended", "expected"),
    [
        ("stated", " about seve", False, ""),
        ("stated", " about seven", True, "about seven"),
        # It might go on to "7.5".
        ("last_number", " 7.", False, ""),
        ("last_number", " 7.", True, "7"),
        ("boxed", "12", False, ""),
        ("boxed", "12", True, "12"),
        ("boxed", "1{2}", False, ""),
        ("stated", "  \n ", False, ""),
        ("stated", "", True, ""),
    ],
)
def test_an_incomplete_answer_is_none(rule, continuation, ended, expected):
    assert read(continuation, rule, ended=ended) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("last_number", "12"), ("stated", "12"), ("last_line", "12"), ("boxed", "12")],
)
def test_every_rule_can_be_asked_with_a_box(rule, expected):
    assert read("12}. So", rule, opened=f"The final answers is {BOX}") == expected
    assert read("No}.", "yes_no", opened=BOX) == "no"
    assert read("B}.", "choice", opened=BOX) == "B"


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens):
        return "".join(map(chr, tokens))


def letters(text):
    return np.asarray([ord(letter) for letter in text], np.int32)


@pytest.mark.parametrize(
    ("compat", "kept", "continuation", "finish", "expected"),
    [
        # The trace wrote a box itself: the published reading takes that one.
        (False, r"It is \boxed{9}, or so.", "4} is it.", "length", "4"),
        (True, r"It is \boxed{9}, or so.", "4} is it.", "length", "9"),
        (True, "It is nine, or so it is.", "4} is it.", "length", "4"),
        # Unclosed: no answer, or all of it.
        (False, "It is nine, or so it is.", "7 and", "length", ""),
        (True, "It is nine, or so it is.", "7 and", "length", "7and"),
    ],
)
def test_the_published_reading_takes_the_first_box(compat, kept, continuation, finish, expected):
    sentences = tuple(split_sentences(kept))
    trace = Trace(
        Prompt(letters("Q"), np.zeros(1, np.int8), "Q"), letters(kept), kept, sentences,
        np.asarray([[0, len(kept)]], np.int32),
    )
    lm = SimpleNamespace(tokenizer=Letters())
    reader = ForcedReader(lm, prompt_problem("Q", "4", rule="boxed"), trace, compat)
    opened = reader.opened(1, None)
    record = {"tokens": letters(continuation).tolist(), "finish": finish}
    found = reader(1, opened, record)
    assert found.answer == expected and found.correct == (expected == "4")


def test_importance_belongs_to_the_sentence_that_a_boundary_adds():
    """Answers change where S_1 is kept for the first time: at boundary 2, so S_1 it is."""
    wrong, right = ForcedAnswer("", "5", False), ForcedAnswer("", "4", True)
    forced = ForcedAnswers({0: (wrong,) * 8, 1: (wrong,) * 8, 2: (right,) * 8, 3: (right,) * 8})
    pools = {i: RolloutPool(["4"] * 4, [True] * 4) for i in range(3)}
    found = sentence_importance(
        pools, ImportanceConfig(draws=0), sentences=3, forced=forced.pools()
    )
    accuracies = [one.forced_importance_accuracy.value for one in found]
    assert accuracies == [0.0, 1.0, 0.0]
    assert sum(accuracies) == 1.0  # they telescope, the last sentence included
    kl = [one.forced_importance_kl.value for one in found]
    assert kl[1] > 1 and np.allclose([kl[0], kl[2]], 0)
    assert forced.unanswered_share == 0
