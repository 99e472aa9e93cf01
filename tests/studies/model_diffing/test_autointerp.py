"""Explanations and their scoring with judges whose answers are known."""

from __future__ import annotations

import collections
import json
import math
import re

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.autointerp import explain_and_score, read_numbers
from interp_jax.studies.model_diffing.autointerp_prompts import marked
from interp_jax.studies.model_diffing.explanation_scores import (
    Score,
    explained_of,
    mean_accuracy,
)
from interp_jax.studies.model_diffing.scoring_texts import (
    Text,
    detection_cases,
    fuzzing_cases,
    gather,
)
from interp_jax.studies.model_diffing.similar_texts import silent_examples, silent_in
from interp_jax.studies.model_diffing.work import plain
from interp_jax.text.judges.judge import Reply
from interp_jax.text.judges.logged import LoggedJudge

pytestmark = pytest.mark.core
WORDS = ["the", "sea", "is", "cold", "today"]
KEYS = {"detection": "active", "fuzzing": "right"}


def decode(ids):
    return [" " + WORDS[i] for i in ids]


def text(document, band, word=1):
    """Active on `sea`, the stronger the lower the band; silent at band -1."""
    ids = np.asarray([0, word if band >= 0 else 3, 2, 3, 4])
    strength = 0.0 if band < 0 else 5.0 - band + document / 1000
    return Text(ids, np.where(ids == 1, strength, 0.0), document, band)


class Known(LoggedJudge):
    """A judge with a rule for which pieces to name; what is no list is its reply."""

    def __init__(self, rule, log=None):
        super().__init__("known", {}, log=log)
        self.rule = rule

    def _answers(self, questions):
        for key, question in questions.items():
            content = question.messages[0]["content"]
            if question.purpose == "explain":
                said = " it responds\n to <<sea>> " if "<< sea>>" in content else "nothing"
            else:
                pieces = re.findall(r"^\[(\d+)\] (.*)$", content, flags=re.MULTILINE)
                said = self.rule([(int(n), words) for n, words in pieces])
                if isinstance(said, list):
                    said = json.dumps({KEYS[question.purpose]: said})
            yield key, Reply(said, "known-1", 1, 1, None, 0.0, False), 0


SEES = lambda pieces: [n for n, words in pieces if "sea" in words]
MARKS = lambda pieces: [n for n, words in pieces if "<< sea>>" in words]
EVERY = lambda pieces: [n for n, _ in pieces]
SILENT = [text(100 + n, -1) for n in range(30)]
SHOWN = [text(n, n % 5) for n in range(25)]


def explained(rule, scorer, log=None, shown=SHOWN):
    material = {7: gather(shown, SILENT, explain=6, score=8, seed=0)}
    with Known(rule, log) as judge:
        (one,) = explain_and_score(judge, material, decode, scorers=(scorer,))
    assert set(one.scores) == {scorer}
    return one


def scores(rule, scorer="detection", **given):
    return explained(rule, scorer, **given).scores[scorer]


@pytest.mark.parametrize(
    ("scorer", "oracle", "version"),
    [("detection", SEES, "detect-1"), ("fuzzing", MARKS, "fuzz-1")],
)
def test_a_judge_that_knows_is_right_and_one_that_guesses_is_at_chance(
    tmp_path, scorer, oracle, version
):
    one = explained(oracle, scorer, tmp_path / "judge.jsonl")
    seen = one.scores[scorer]
    assert (seen.hits, seen.positives, seen.rejections, seen.negatives) == (8, 8, 8, 8)
    assert seen.balanced_accuracy == 1.0 and seen.unanswered == seen.left_out == 0
    assert one.explanation == "it responds to <<sea>>" and one.judge == "known-1"
    assert sum(n for _, n in seen.by_band.values()) == 8
    assert all(hits == n for hits, n in seen.by_band.values())
    blind = lambda pieces: sorted(set(EVERY(pieces)) - set(oracle(pieces)))
    for rule, accuracy in ((EVERY, 0.5), (lambda pieces: [], 0.5), (blind, 0.0)):
        assert scores(rule, scorer).balanced_accuracy == accuracy
    lines = (tmp_path / "judge.jsonl").read_text().splitlines()
    log = [json.loads(line)["record"] for line in lines]
    assert {(r["purpose"], r["prompt_version"]) for r in log} == {
        ("explain", "explain-1"), (scorer, version)
    }
    asked = [r["messages"][0]["content"] for r in log if r["purpose"] == scorer]
    for content in asked:
        pieces = re.findall(r"^\[\d+\] (.*)$", content, flags=re.MULTILINE)
        # Nothing is given away in detection; in fuzzing every piece has its marks.
        assert all(("<<" in piece) == (scorer == "fuzzing") for piece in pieces)
    assert explained_of(json.loads(json.dumps(plain(one)))) == one


def test_one_explanation_serves_both_scorers(tmp_path):
    material = {7: gather(SHOWN, SILENT, explain=6, score=8, seed=0)}
    rule = lambda pieces: (MARKS if any("<<" in words for _, words in pieces) else SEES)(pieces)
    with Known(rule, tmp_path / "judge.jsonl") as judge:
        (one,) = explain_and_score(judge, material, decode)
    assert {name: s.balanced_accuracy for name, s in one.scores.items()} == {
        "detection": 1.0, "fuzzing": 1.0
    }
    lines = (tmp_path / "judge.jsonl").read_text().splitlines()
    log = [json.loads(line)["record"] for line in lines]
    assert sum(r["purpose"] == "explain" for r in log) == 1


@pytest.mark.parametrize("scorer", list(KEYS))
def test_what_cannot_be_read_is_no_answer(scorer):
    lost = scores(lambda pieces: "I think the first one.", scorer)
    assert lost.unanswered == 16 and math.isnan(lost.balanced_accuracy)
    assert mean_accuracy([lost]) is None
    oracle = {"detection": SEES, "fuzzing": MARKS}[scorer]
    half = scores(lambda p: oracle(p) if len(p) == 5 else "no", scorer)
    # 16 texts of detection in fives; twice 8 of fuzzing.
    assert half.unanswered == {"detection": 1, "fuzzing": 6}[scorer]
    assert half.balanced_accuracy == 1.0


def test_wrong_marks_are_as_many_and_never_on_an_active_token():
    draw = np.random.default_rng(0)
    shown = []
    for document in range(40):
        ids = draw.integers(0, 5, int(draw.integers(3, 20)))
        ids[0] = 1
        shown.append(Text(ids, np.where(ids == 1, 1.0 + document, 0.0), document, document % 3))
    material = gather(shown, None, explain=10, score=16, seed=0)
    assert len(material.positive) == 16 and not material.negative
    questions = fuzzing_cases(material, 5, [0, 7])
    sides = collections.defaultdict(dict)
    for question in questions:
        documents = [case.text.document for case in question]
        assert len(question) <= 5 and len(set(documents)) == len(documents)
        for case in question:
            sides[case.text.document][case.fits] = case
    for both in sides.values():
        active = both[True].text.activations > 0
        np.testing.assert_array_equal(both[True].marks, active)
        assert not (both[False].marks & active).any()
        assert both[False].marks.sum() == active.sum() > 0
    # Both rounds mix right and wrong marks.
    rights = [case.fits for question in questions for case in question][: len(sides)]
    assert sum(rights) == len(sides) // 2
    again = fuzzing_cases(material, 5, [0, 7])
    other = fuzzing_cases(material, 5, [1, 7])
    told = lambda made: [case.marks.tolist() for question in made for case in question]
    assert told(questions) == told(again) != told(other)
    plain_ones = detection_cases(material, 5, [0, 7])
    assert not any(case.marks.any() for question in plain_ones for case in question)


def test_texts_with_too_few_silent_tokens_are_left_out_of_fuzzing():
    full = [
        Text(np.asarray([1, 1, 1, 0, 2]), np.asarray([3.0, 3, 3, 0, 0]), 50 + n, n % 5)
        for n in range(25)
    ]
    none = scores(MARKS, "fuzzing", shown=full)
    assert none.left_out == 8 and none.positives == none.negatives == none.unanswered == 0
    assert math.isnan(none.balanced_accuracy)
    some = scores(MARKS, "fuzzing", shown=[*SHOWN, *full])
    assert 0 < some.left_out < 8 and some.positives == some.negatives == 8 - some.left_out
    assert scores(SEES, "detection", shown=full).left_out == 0


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ('{"active": [1, "3"]}', {0, 2}),
        ('<think>{"active": [2]}</think> so ```{"active": []}```', set()),
        ('{"active": [0]}', None),
        ('{"active": [4]}', None),
        ('{"active": [true]}', None),
        ('{"active": [1.5]}', None),
        ('{"active": "1"}', None),
        ('{"right": [1]}', None),
        ("[1, 2]", None),
    ],
)
def test_reading_numbers(reply, named):
    assert read_numbers(reply, "active", 3) == named


def test_explaining_and_scoring_share_no_document():
    repeated = [text(n % 10, n % 5) for n in range(50)]
    silent = [text(n % 12, -1) for n in range(24)]
    material = gather(repeated, silent, explain=4, score=4, seed=1)
    parts = [{t.document for t in part} for part in
             (material.explain, material.positive, material.negative)]  # fmt: skip
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(material.explain) == 4 and len(parts[0]) == 4
    assert len(material.negative) == len(parts[2])
    peaks = [t.activations.max() for t in material.explain]
    assert peaks == sorted(peaks, reverse=True)
    assert not any(t.active for t in material.negative)
    assert gather(repeated[:1], silent, explain=4, score=4, seed=1) is None
    assert gather(repeated, [], explain=4, score=4, seed=1) is None
    assert gather(repeated, None, explain=4, score=4, seed=1).negative == ()


def test_similar_texts_are_the_neighbours_and_silent():
    arrays = {
        "neighbours": np.asarray([[4, 2, -1], [2, -1, -1]]),
        "latent": np.asarray([2, 2, 3, 4, 4]),
        "tokens": np.asarray([[1, -1], [2, 7], [3, 7], [4, 7], [5, 7]]),
        "document": np.asarray([11, 12, 13, 14, 15]),
        "silent": np.asarray([[1, 0], [0, 1], [1, 1], [1, 1], [0, 1]], bool),
    }
    first, second = (silent_examples(arrays, place) for place in (0, 1))
    # The nearest latent's texts come first; latent 3 is nobody's neighbour.
    assert [t.document for t in first] == [14, 11] and [t.document for t in second] == [12]
    assert first[1].tokens.tolist() == [1] and not any(t.active for t in (*first, *second))


def test_a_window_is_silent_only_where_it_is_found_and_nothing_fires():
    tokens = np.asarray([5, 6, 5, 6, 7])
    active = np.zeros((5, 3), bool)
    active[3, 0] = active[4, 1] = True
    assert silent_in(tokens, active, np.asarray([5, 6])).tolist() == [False, True, True]
    assert silent_in(tokens, active, np.asarray([6, 7])).tolist() == [False, False, True]
    assert not silent_in(tokens, active, np.asarray([7, 7])).any()
    assert not silent_in(tokens, active, np.arange(6)).any()


def test_words_are_marked_in_runs():
    assert marked(["a", "b", "c", "d"], [True, True, False, True]) == "<<ab>>c<<d>>"
    assert marked(["a"], [False]) == "a"


def test_the_mean_over_latents_has_an_interval():
    made = [Score(n, 10, 10, 10, 0, 0, {}, "detect-1") for n in range(10)]
    found = mean_accuracy(made)
    assert found.value == pytest.approx(np.mean([(n / 10 + 1) / 2 for n in range(10)]))
    assert found.low < found.value < found.high and found.rows == 10


def test_nothing_to_ask_is_refused():
    with pytest.raises(UserError, match="no latent with enough examples"):
        explain_and_score(Known(SEES), {}, decode)
    material = {7: gather(SHOWN, SILENT, explain=6, score=8, seed=0)}
    for scorers, says in (((), "scorers none"), (("simulation",), "scorers simulation"),
                          (("fuzzing", "fuzzing"), "each once")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            explain_and_score(Known(SEES), material, decode, scorers=scorers)
