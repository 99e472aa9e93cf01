"""Explanations and detection scoring with judges whose answers are known."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.autointerp import (
    Score,
    Text,
    explain_and_score,
    gather,
    mean_accuracy,
    read_detections,
)
from interp_jax.studies.model_diffing.autointerp_prompts import marked
from interp_jax.text.judges.judge import Reply
from interp_jax.text.judges.logged import LoggedJudge

pytestmark = pytest.mark.core
WORDS = ["the", "sea", "is", "cold", "today"]


def decode(ids):
    return [" " + WORDS[i] for i in ids]


def text(document, band, word=1):
    """Active on `sea`, the stronger the lower the band; silent at band -1."""
    ids = np.asarray([0, word if band >= 0 else 3, 2, 3, 4])
    strength = 0.0 if band < 0 else 5.0 - band + document / 1000
    return Text(ids, np.where(ids == 1, strength, 0.0), document, band)


class Known(LoggedJudge):
    """A judge with a rule for detections."""

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
            yield key, Reply(said, "known-1", 1, 1, None, 0.0, False), 0


SEES = lambda pieces: json.dumps({"active": [n for n, words in pieces if "sea" in words]})
SILENT = [text(100 + n, -1) for n in range(30)]
SHOWN = [text(n, n % 5) for n in range(25)]


def scores(rule, log=None):
    material = {7: gather(SHOWN, SILENT, explain=6, score=8, seed=0)}
    with Known(rule, log) as judge:
        return explain_and_score(judge, material, decode)[0]


def test_a_judge_that_sees_is_right_and_one_that_guesses_is_at_chance(tmp_path):
    seen = scores(SEES, tmp_path / "judge.jsonl")
    assert (seen.hits, seen.positives, seen.rejections, seen.negatives) == (8, 8, 8, 8)
    assert seen.balanced_accuracy == 1.0 and seen.unanswered == 0
    assert seen.explanation == "it responds to <<sea>>" and seen.judge == "known-1"
    assert sum(n for _, n in seen.by_band.values()) == 8
    every = scores(lambda pieces: json.dumps({"active": [n for n, _ in pieces]}))
    none = scores(lambda pieces: '{"active": []}')
    blind = scores(lambda p: json.dumps({"active": [n for n, w in p if "sea" not in w]}))
    assert every.balanced_accuracy == none.balanced_accuracy == 0.5
    assert blind.balanced_accuracy == 0.0
    lines = (tmp_path / "judge.jsonl").read_text().splitlines()
    log = [json.loads(line)["record"] for line in lines]
    assert {(r["purpose"], r["prompt_version"]) for r in log} == {
        ("explain", "explain-1"), ("detect", "detect-1")
    }
    asked = [r["messages"][0]["content"] for r in log if r["purpose"] == "detect"]
    assert all("<<" not in a.replace("<<sea>>", "") for a in asked)  # nothing is given away


def test_what_cannot_be_read_is_no_answer():
    lost = scores(lambda pieces: "I think the first one.")
    assert lost.unanswered == 16 and math.isnan(lost.balanced_accuracy)
    assert mean_accuracy([lost]) is None
    half = scores(lambda p: SEES(p) if len(p) == 5 else "no")
    assert half.unanswered == 1 and half.balanced_accuracy == 1.0


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
        ('{"other": [1]}', None),
        ("[1, 2]", None),
    ],
)
def test_reading_detections(reply, named):
    assert read_detections(reply, 3) == named


def test_explaining_and_scoring_share_no_document():
    repeated = [text(n % 10, n % 5) for n in range(50)]
    silent = [text(n, -1) for n in range(12)]
    material = gather(repeated, silent, explain=4, score=4, seed=1)
    parts = [{t.document for t in part} for part in
             (material.explain, material.positive, material.negative)]  # fmt: skip
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(material.explain) == 4 and len(parts[0]) == 4
    peaks = [t.activations.max() for t in material.explain]
    assert peaks == sorted(peaks, reverse=True)
    assert not any(t.active for t in material.negative)
    assert gather(repeated[:1], silent, explain=4, score=4, seed=1) is None
    assert gather(repeated, [], explain=4, score=4, seed=1) is None


def test_words_are_marked_in_runs():
    assert marked(["a", "b", "c", "d"], [True, True, False, True]) == "<<ab>>c<<d>>"
    assert marked(["a"], [False]) == "a"


def test_the_mean_over_latents_has_an_interval():
    made = [Score(n, "", n, 10, 10, 10, 0, {}, "j") for n in range(10)]
    found = mean_accuracy(made)
    assert found.value == pytest.approx(np.mean([(n / 10 + 1) / 2 for n in range(10)]))
    assert found.low < found.value < found.high and found.rows == 10


def test_nothing_to_ask_is_refused():
    with pytest.raises(UserError, match="no latent with enough examples"):
        explain_and_score(Known(SEES), {}, decode)
