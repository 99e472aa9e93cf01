"""Each stage alone: in order they end where a whole run ends, and each says what it lacks."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.studies.thought_anchors import run as study
from interp_jax.studies.thought_anchors.forced import ForcedReader
from interp_jax.studies.thought_anchors.presenting import report_parts
from interp_jax.studies.thought_anchors.released import read_trace
from interp_jax.studies.thought_anchors.report_data import check
from interp_jax.studies.thought_anchors.scoring import Scores
from tests.studies.thought_anchors.small_study import small_config, small_model

pytestmark = pytest.mark.usefixtures("one_encoder")

STAGES = ("base", "rollouts", "forced", "score", "labels", "white_box", "report")
# Everything that is off by default, with few and short texts. Forced answers are as long as
# rollouts, so that both run the same compiled loop.
OPTIONS = dict(
    min_sentences=3, rollouts=6, adaptive_width=0.7, adaptive_minimum=2, adaptive_round=2,
    forced_rollouts=2, forced_max_new_tokens=56, resilience_rounds=3, resilience_chains=2,
    content_threshold=0.3,
)


@pytest.fixture(scope="module")
def lm():
    return small_model()


@pytest.fixture(scope="module")
def whole(lm, tmp_path_factory):
    return study.run(small_config(tmp_path_factory.mktemp("whole"), **OPTIONS), lm)


def outputs(workdir):
    """Everything that must not depend on how often, or in how many parts, a run was made."""
    names = [*(workdir / "trace").rglob("*.json"), workdir / "scores.json", workdir / "labels.json"]
    return {str(path.relative_to(workdir)): path.read_text() for path in names}


def samples(path):
    with Journal(path) as journal:
        return {n: r for n, r in journal.records() if not n.startswith("session/")}


def test_stages_in_order_end_where_a_whole_run_ends(whole, lm, tmp_path):
    for stage in STAGES:
        result = study.run(small_config(tmp_path, stage=stage, **OPTIONS), lm)
        assert (result.report is not None) == (stage == "report")
    assert outputs(tmp_path) == outputs(whole.workdir)
    assert result.found.suppression.effects.tolist() == whole.found.suppression.effects.tolist()
    assert "report.html" in {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("there", "stage", "file", "first"),
    [
        ((), "rollouts", "base.jsonl", "base"),
        ((), "forced", "base.jsonl", "base"),
        ((), "white_box", "base.jsonl", "base"),
        ((), "report", "base.jsonl", "base"),
        (("base.jsonl",), "score", "rollouts.jsonl", "rollouts"),
        (("base.jsonl", "rollouts.jsonl"), "score", "forced.jsonl", "forced"),
    ],
)
def test_a_stage_names_the_file_it_lacks_and_what_makes_it(
    whole, lm, tmp_path, there, stage, file, first
):
    for name in there:
        shutil.copy(whole.workdir / name, tmp_path / name)
    with pytest.raises(UserError, match=f"no .*{file}.*--stage={first}"):
        study.run(small_config(tmp_path, stage=stage, **OPTIONS), lm)
    assert not (tmp_path / "trace").exists()


def test_unfinished_rollouts_are_not_scored(whole, lm, tmp_path):
    shutil.copy(whole.workdir / "base.jsonl", tmp_path)
    lines = (whole.workdir / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rollouts.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="an unfinished .*rollouts.jsonl"):
        study.run(small_config(tmp_path, stage="score", **OPTIONS), lm)
    # The report is of what is whole.
    result = study.run(small_config(tmp_path, stage="report", **OPTIONS), lm)
    assert result.found.rollouts is None and result.report.exists()


def test_a_report_of_a_base_trace_alone(whole, lm, tmp_path):
    shutil.copy(whole.workdir / "base.jsonl", tmp_path)
    config = small_config(tmp_path, stage="report", **OPTIONS)
    result = study.run(config, lm)
    parts = report_parts(result.found, config)
    assert parts["suppression"] is None and "resampling" not in parts
    shutil.copy(whole.workdir / "rollouts.jsonl", tmp_path)
    parts = report_parts(study.run(config, lm).found, config)
    assert "--stage=score" in parts["resampling"]["not_shown"]


def test_adaptive_numbers_are_what_the_rule_says_and_are_told(whole):
    found, config = whole.found, small_config("unused", **OPTIONS)
    sizes = [len(own) for own in found.rollouts.by_sentence.values()]
    assert set(sizes) <= {2, 4, 6} and min(sizes) < 6
    assert len(samples(whole.workdir / "rollouts.jsonl")) == sum(sizes)
    said = found.rollouts.saved(config)
    assert f"{sum(sizes)} of {6 * len(sizes)} were made" in said
    assert said in whole.facts and said in report_parts(found, config)["notes"]


def test_forced_answers_follow_the_kept_tokens_and_the_lead_in(whole, lm):
    """A forced answer lies in the nucleus of the plain model on trace and lead-in."""
    trace, found = whole.trace, whole.found
    count = len(trace.sentences)
    assert sorted(found.forced.by_boundary) == list(range(count + 1))
    records = samples(whole.workdir / "forced.jsonl")
    assert set(records) == {f"{b}/{n}" for b in range(count + 1) for n in range(2)}
    assert all(len(record["tokens"]) <= 56 for record in records.values())
    reader = ForcedReader(lm, found.problem, trace)
    boundary = 2
    kept = trace.ids[: trace.spans[boundary - 1, 1]]
    while not lm.tokenizer.decode(kept[-1:]).strip():
        kept = kept[:-1]
    opened = reader.opened(boundary, None)
    assert opened.strip() == "The answer is"
    before = np.concatenate([kept, lm.tokenizer.encode(opened).ids])
    sampled = np.asarray(records[f"{boundary}/1"]["tokens"], np.int32)
    ids = np.concatenate([before, sampled]).astype(np.int32)
    logits = np.asarray(lm.logits([ids])[0], np.float64)[0, len(before) - 1 : len(ids) - 1]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for step, token in enumerate(sampled):
        assert p[step][p[step] > p[step][token] * (1 + 1e-4)].sum() < 0.95


def test_forced_importance_is_in_the_records_and_telescopes(whole):
    trace, found = whole.trace, whole.found
    pools = found.forced.pools()

    def accuracy(boundary):
        own = [c for a, c in zip(pools[boundary].answers, pools[boundary].correct, strict=True)
               if a]
        return np.mean(own) if own else None

    ends = accuracy(0), accuracy(len(trace.sentences))
    records = read_trace(whole.workdir / "trace").labeled
    total = sum(record["forced_importance_accuracy"] for record in records)
    if None not in ends:
        assert total == pytest.approx(ends[1] - ends[0])
    assert found.scores.forced
    entry = report_parts(found, small_config("unused", **OPTIONS))["resampling"][-1]
    assert not math.isnan(entry["forced_kl"])  # the last sentence has one


def test_resilience_goes_on_only_where_the_content_came_back(whole):
    found = whole.found.scores.resilience
    records = samples(whole.workdir / "resilience.jsonl")
    assert [one.chunk_idx for one in found] == list(range(len(whole.trace.sentences)))
    removals = {
        (one.chunk_idx, chain): count
        for one in found for chain, count in enumerate(one.removals)
    }
    assert all(1 <= count <= 3 for count in removals.values())
    # The first removal is the rollout itself; every other is in the journal.
    assert len(records) == sum(count - 1 for count in removals.values()) > 0
    for name, record in records.items():
        index, chain, number = map(int, name.split("/"))
        assert number < removals[index, chain] and record["kept"] >= 0
        assert record["kept"] + len(record["tokens"]) <= 61
    for one in found:
        for count, stayed in zip(one.removals, one.stayed, strict=True):
            assert stayed or count == 3  # censored only when the rounds were over


def test_scores_come_back_from_their_file(whole):
    kept = Scores.from_json(json.loads((whole.workdir / "scores.json").read_text()))
    assert kept.to_json() == whole.found.scores.to_json()
    assert kept.importance[0].chunk_idx == 0 and kept.matrix.matches.dtype == np.int64


def test_records_carry_labels_and_what_thought_branches_measures(whole):
    labels, records = whole.found.labels, read_trace(whole.workdir / "trace").labeled
    assert [tuple(record["function_tags"]) for record in records] == list(labels.tags)
    assert all(record["depends_on"] == [str(k) for k in links]
               for record, links in zip(records, labels.depends_on, strict=True))
    for record, absent in zip(records, whole.found.scores.absences, strict=True):
        assert record["resilience"] >= 1
        known = math.isfinite(absent.log_odds.value)
        assert ("content_importance_log_odds" in record) == known
    assert "content_importance_log_odds" not in records[-1]
    parts = check(report_parts(whole.found, small_config("unused", **OPTIONS)) | {
        "model": study.model_facts(small_model())
    })
    assert parts["trace"]["sentences"][0]["label"] == labels.main[0]
    assert {tag["name"] for tag in parts["trace"]["tags"]} == set(labels.main)
    assert parts["resampling"][0]["content"]["chains"] == 2


def test_labels_can_be_made_again_or_left_out(whole, lm, tmp_path):
    shutil.copy(whole.workdir / "base.jsonl", tmp_path)
    config = small_config(tmp_path, stage="labels", **OPTIONS)
    assert study.run(config, lm).found.labels.by == "rules"
    kept = json.loads((tmp_path / "labels.json").read_text())
    (tmp_path / "labels.json").write_text(json.dumps(kept | {"asked": {"labels": "other"}}))
    study.run(dataclasses.replace(config, stage="report"), lm)
    assert json.loads((tmp_path / "labels.json").read_text())["asked"] == {"labels": "other"}
    study.run(config, lm)
    assert json.loads((tmp_path / "labels.json").read_text()) == kept


def test_a_missing_key_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    config = small_config(
        tmp_path / "run", labels="endpoint", judge_model="m", judge_key_variable="A_KEY"
    )
    with pytest.raises(UserError, match="A_KEY"):
        study.run(config)
    assert not (tmp_path / "run").exists()


class Killed(BaseException):
    """What stops a run at once, as a kill does: nothing may handle it."""


def test_a_run_killed_in_any_journal_ends_as_an_unbroken_one(whole, lm, tmp_path, monkeypatch):
    """Killed at every third write of every journal; the rounds decide as if nothing had been."""
    config = small_config(tmp_path, **OPTIONS)
    append, left, kills = Journal.append, [0], {}

    def append_then_die(journal, name, record):
        append(journal, name, record)
        left[0] -= 1
        if left[0] == 0:
            kills[journal.path.name] = kills.get(journal.path.name, 0) + 1
            raise Killed

    monkeypatch.setattr(Journal, "append", append_then_die)
    for _ in range(200):
        left[0] = 3
        try:
            study.run(config, lm)
            break
        except Killed:
            pass
    assert set(kills) >= {"base.jsonl", "rollouts.jsonl", "forced.jsonl", "resilience.jsonl"}
    assert outputs(tmp_path) == outputs(whole.workdir)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (dict(stage="forced"), "forced_rollouts=0"),
        (dict(stage="labels", labels="none"), "somebody to label"),
        (dict(labels="local"), "--judge_model"),
        (dict(released="there"), "--released with --prompt"),
        (dict(prompt=None, released="there", stage="rollouts"), "not continued"),
        (dict(prompt=None, released="there", plan_only=True), "plan_only"),
        (dict(prompt=None, trace="there", stage="score"), "not continued"),
        (dict(forced_lead_in="  "), "forced_lead_in"),
        (dict(smoothing="none"), "--smoothing=none"),
    ],
)
def test_flags_that_do_not_go_together(flags, said):
    with pytest.raises(UserError, match=said):
        small_config("unused", **flags)
