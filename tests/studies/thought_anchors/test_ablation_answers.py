"""Accuracy under head ablation: counted as it should be, and sampled from the ablated model."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import ablate_heads
from interp_jax.models.batch import Batch
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.thought_anchors import run as study
from interp_jax.studies.thought_anchors.ablation_answers import (
    CONDITIONS,
    AblationAnswers,
    make_answers,
    problems_to_answer,
    read_answers,
)
from interp_jax.studies.thought_anchors.ablation_stage import ABLATION, ABLATION_ANSWERS
from interp_jax.studies.thought_anchors.asking import ask, given_trace
from interp_jax.studies.thought_anchors.intervals import newcombe_interval, wilson_interval
from interp_jax.studies.thought_anchors.masking_stage import masking_stage
from interp_jax.studies.thought_anchors.presenting import Findings, report_parts
from interp_jax.studies.thought_anchors.problems import Problem, prompt_problem
from interp_jax.studies.thought_anchors.records import released_trace
from interp_jax.studies.thought_anchors.released import ReleasedTrace, write_trace
from interp_jax.studies.thought_anchors.report_data import check
from interp_jax.studies.thought_anchors.report_findings import findings
from interp_jax.studies.thought_anchors.run_facts import run_facts
from interp_jax.studies.thought_anchors.stages import Work
from interp_jax.studies.thought_anchors.vertical import select_receiver_heads
from tests.studies.thought_anchors.small_study import small_config, small_model

HEADS = [(1, 0), (2, 1)]
CONTROLS = [[(1, 1), (2, 0)], [(1, 2), (2, 2)], [(1, 1), (2, 2)]]


@pytest.fixture(scope="module")
def lm():
    return small_model()


def config(tmp_path, **over):
    return small_config(tmp_path, **{"ablate_heads": 2, "ablation_samples": 2} | over)


def problem(question, answer):
    return Problem(question[:5], question, answer, "last_line", "test")


@pytest.fixture(scope="module")
def made(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    problems = [problem("Alice said to the Queen,", "so"), problem("The Hatter was there.", "so")]
    with Journal(folder / "a.jsonl") as journal:
        answers = make_answers(lm, problems, HEADS, CONTROLS, config(folder), journal)
        return problems, answers, dict(journal.records()), folder


def test_intervals_are_the_closed_forms():
    right = np.asarray([[6, 2], [1, 0], [4, 2]])
    found = AblationAnswers(8, right, np.asarray([[0, 0], [3, 5], [1, 1]]))
    assert found.problems == 2
    for row, name in enumerate(CONDITIONS):
        one, (low, high) = found.accuracy(name), wilson_interval(right[row].sum(), 16)
        assert (one.value, one.low, one.high) == (right[row].sum() / 16, low, high)
    change = found.change("receiver", "random")
    assert change.value == (1 - 6) / 16
    assert (change.low, change.high) == newcombe_interval(1, 16, 6, 16)
    assert found.unanswered_share("receiver") == 0.5


def test_an_answer_counts_only_if_it_ends_and_is_right(made, lm, tmp_path):
    """One problem whose answers are right where they end, one whose are wrong; both read as
    journaled, under the ids that making them gave."""
    problems, _, records, _ = made
    digest = hashlib.sha256(problems[0].question.encode()).hexdigest()[:12]
    problems = [
        dataclasses.replace(problems[0], answer="she said so"),
        dataclasses.replace(problems[1], answer="no"),
    ]
    tokens = lm.tokenizer.encode("She said so.").ids.tolist()
    ended, cut = {"tokens": [*tokens, 3], "finish": "stop"}, {"tokens": tokens, "finish": "length"}
    with Journal(tmp_path / "written.jsonl") as journal:
        assert read_answers(lm, problems, HEADS, config(tmp_path), journal) is None
        for name in records:
            condition, number = name.split("/")[0], name.split("/")[-1]
            first = digest in name
            whole = condition == "none" or (condition == "receiver" and number == "0") or not first
            journal.append(name, ended if whole else cut)
        found = read_answers(lm, problems, HEADS, config(tmp_path), journal)
        # Other heads share nothing but the answers with none ablated.
        assert read_answers(lm, problems, HEADS[:1], config(tmp_path), journal) is None
    assert found.right.tolist() == [[2, 0], [1, 0], [0, 0]]
    assert found.unanswered.tolist() == [[0, 0], [1, 0], [2, 0]]


def test_answers_come_from_the_model_without_the_heads(made, lm, tmp_path):
    """Every sampled token lies in the nucleus of the general verb's model on what was sampled."""
    problems, answers, records, _ = made
    assert answers.right.shape == answers.unanswered.shape == (3, 2)
    assert answers.tokens == sum(len(record["tokens"]) for record in records.values()) > 0
    settings = config(tmp_path)
    prompts = {
        hashlib.sha256(p.question.encode()).hexdigest()[:12]:
        ask(lm, p.question, settings.instruction, settings.opening).ids for p in problems
    }
    rows = [
        (prompts[name.split("/")[-2]], np.asarray(record["tokens"], np.int32))
        for name, record in records.items()
    ]
    tokens = np.zeros((len(rows), max(len(p) + len(own) for p, own in rows)), np.int32)
    for row, (prompt, own) in enumerate(rows):
        tokens[row, : len(prompt) + len(own)] = [*prompt, *own]

    def fits(heads):
        """bool [rows]: whether each row's samples lie in the nucleus with `heads` gone."""
        edit = [ablate_heads({layer: (head,) for layer, head in heads})] if heads else []
        logits, _ = run(lm.network, Batch.make(tokens), *edit)
        found = []
        for row, (prompt, own) in enumerate(rows):
            own_logits = np.asarray(logits[row], np.float64)[len(prompt) - 1 :][: len(own)]
            p = np.exp(own_logits - own_logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            drawn = np.take_along_axis(p, own[:, None], 1)
            found.append((np.where(p > drawn * (1 + 1e-4), p, 0).sum(-1) < 0.95).all())
        return np.asarray(found)

    plain, receiver, *random = (fits(heads) for heads in ([], HEADS, *CONTROLS))
    conditions = np.asarray([name.split("/")[0] for name in records])
    assert plain[conditions == "none"].all() and receiver[conditions == "receiver"].all()
    assert np.any(random, axis=0)[conditions == "random"].all()
    # Somewhere the tokens tell that heads were gone.
    assert not plain[conditions != "none"].all()
    touched = np.asarray([record["touched"] for record in records.values()])
    assert ((touched > 0) == (conditions != "none")).all()


def test_going_on_makes_only_what_lacks_and_ends_the_same(made, lm):
    problems, answers, records, folder = made
    names = list(records)
    with Journal(folder / "part.jsonl") as journal:
        for name in names[::2]:
            journal.append(name, records[name])
        again = make_answers(lm, problems, HEADS, CONTROLS, config(folder), journal)
        assert dict(journal.records()) == records
    assert np.array_equal(again.right, answers.right)
    assert again.tokens == sum(len(records[name]["tokens"]) for name in names[1::2])


def test_which_problems_are_answered(tmp_path):
    lines = [{"question": f"Q{i % 4}?", "answer": None if i == 1 else i} for i in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = str(tmp_path / "p.jsonl")
    own = prompt_problem("What?", "7")
    asked = lambda own, **over: [p.question for p in problems_to_answer(config("x", **over), own)]
    assert asked(own) == ["What?"]
    assert asked(prompt_problem("What?")) == [] and asked(None) == []
    # Without those of unknown answer, and each question once.
    assert asked(own, ablation_problems=file) == ["Q0?", "Q2?", "Q3?", "Q1?"]
    assert asked(None, ablation_problems=file, ablation_count=2) == ["Q0?", "Q2?"]
    assert asked(own, prompt=None, problems=file, index=2) == ["Q2?", "Q3?", "Q0?", "Q1?"]
    with pytest.raises(UserError, match="cannot be read"):
        asked(own, ablation_problems=str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match="reasoning_gym:<dataset>"):
        asked(own, ablation_problems="reasoning_gym:gcd:0:x")


def test_the_problems_after_a_generated_one_are_those_of_its_generator():
    pytest.importorskip("reasoning_gym")
    settings = config("x", prompt=None, rule=None, problem="reasoning_gym:chain_sum:0:3",
                      ablation_count=3)
    found = problems_to_answer(settings, study.chosen_problem(settings))
    assert [p.id for p in found] == [f"chain_sum_0_{i}" for i in (3, 4, 5)]


WORDS = "cat dog hat tea Queen King".split()


def looked_into(folder, lm, sentences=20):
    """What the stage white_box leaves, made up: kurtosis by a known order of the heads."""
    network = lm.network.config
    kurtosis = np.random.default_rng(3).gamma(2.0, 1.0, (network.n_layers, network.n_heads))
    heads = select_receiver_heads(kurtosis, 5)
    folder.mkdir(parents=True)
    np.savez(
        folder / "white_box.npz", heads=np.asarray(heads), kurtosis=kurtosis,
        scores=np.linspace(1, 0, sentences), keyless=np.zeros(sentences, int),
        effects=np.tril(np.full((sentences, sentences), -3.0), -1),
    )


@pytest.fixture(scope="module")
def long_run(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    (folder / "trace.txt").write_text(" ".join(f"It was {WORDS[i * 5 % 6]}." for i in range(20)))
    looked_into(folder / "run", lm)
    settings = small_config(
        folder / "run", trace=str(folder / "trace.txt"), rule=None, answer="so", ablate_heads=3,
        ablation_samples=2,
    )
    return settings, study.run(settings, lm)


def test_the_stage_ablates_the_strongest_receiver_heads(long_run, lm):
    settings, result = long_run
    found = result.found.ablation
    assert found.effects.heads == result.found.receiver.heads[:3]
    assert len(found.effects.controls) == 20 and found.answers.problems == 1
    assert not report_parts(result.found, settings)["receiver"]["sink"]  # a question is before it
    parts = check(report_parts(result.found, settings) | {"model": study.model_facts(lm)})
    part = parts["ablation"]
    assert [one["name"] for one in part["answers"]["conditions"]] == list(CONDITIONS)
    assert part["kl"]["value"] == pytest.approx(found.effects.effects()[0])
    finding = {one.method: one for one in findings(parts)}["ablation"]
    assert "Without the 3 receiver heads" in finding.text and finding.status != "not shown"
    assert any("Right answers with heads ablated" in line for line in result.facts)
    assert {ABLATION, ABLATION_ANSWERS} <= {path.name for path in result.workdir.iterdir()}


def test_a_finished_stage_makes_nothing_again_and_another_number_is_made_anew(long_run, lm):
    settings, result = long_run
    again = study.run(settings, lm)
    assert again.found.ablation.answers.tokens == 0
    assert np.array_equal(again.found.ablation.effects.kl, result.found.ablation.effects.kl)
    fewer = study.run(dataclasses.replace(settings, ablate_heads=1, stage="ablation"), lm)
    assert fewer.found.ablation.effects.heads == result.found.receiver.heads[:1]
    back = study.run(settings, lm)  # the answers of the first number are still there
    assert back.found.ablation.answers.tokens == 0
    assert np.array_equal(back.found.ablation.answers.right, result.found.ablation.answers.right)


def test_without_the_flag_nothing_is_shown_and_a_lone_stage_says_what_it_lacks(
    long_run, lm, tmp_path
):
    settings, _ = long_run
    off = dataclasses.replace(settings, ablate_heads=0, stage="report")
    assert study.run(off, lm).found.ablation is None
    alone = dataclasses.replace(settings, workdir=str(tmp_path), stage="ablation")
    with pytest.raises(UserError, match=r"no .*white_box.npz.*--stage=white_box"):
        study.run(alone, lm)


def test_a_short_trace_says_so_and_what_can_be_done(lm, tmp_path, capsys):
    (tmp_path / "trace.txt").write_text("She saw the Queen. The King was there.")
    settings = small_config(
        tmp_path / "run", trace=str(tmp_path / "trace.txt"), prompt=None, rule=None, ablate_heads=2
    )
    result = study.run(settings, lm)
    said = capsys.readouterr().out
    assert "Head ablation: not done. The trace has 2 sentences." in said and "--trace" in said
    parts = report_parts(result.found, settings)
    assert "a longer reasoning" in parts["ablation"]["not_shown"]


def test_more_heads_than_there_are_is_told_before_any_work(lm, tmp_path):
    with pytest.raises(UserError, match="--ablate_heads=9999.*at most"):
        study.run(small_config(tmp_path, ablate_heads=9999), lm)
    assert not (tmp_path / "base.jsonl").exists()
    with pytest.raises(UserError, match="--ablate_heads=0"):
        small_config(tmp_path, stage="ablation")


def test_heads_are_ablated_on_a_released_trace(lm, tmp_path):
    folder = tmp_path / "problem_1"
    text = " ".join(f"It was {WORDS[i * 5 % 6]}." for i in range(20))
    write_trace(folder, ReleasedTrace(
        problem={"problem": "Alice said to the Queen,", "level": "", "type": "", "gt_solution": "",
                 "gt_answer": "so", "nickname": ""},
        base_solution={"prompt": "Alice said to the Queen,\n\n", "solution": text,
                       "full_cot": "", "answer": "tea", "is_correct": False},
    ))
    looked_into(tmp_path / "run", lm)
    settings = small_config(
        tmp_path / "run", prompt=None, released=str(folder), ablate_heads=2, ablation_samples=1,
    )
    result = study.run(settings, lm)
    found = result.found
    assert found.ablation.effects.heads == found.receiver.heads[:2]
    assert found.ablation.answers.problems == 1
    page = result.report.read_text()
    assert '"ablation": {"heads"' in page or '"ablation":{"heads"' in page
    again = study.run(dataclasses.replace(settings, stage="report"), lm)
    assert again.found.ablation.answers.right.tolist() == found.ablation.answers.right.tolist()


@pytest.fixture(scope="module")
def masked(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    (folder / "trace.txt").write_text(" ".join(f"It was {WORDS[i % 6]}." for i in range(6)))
    settings = small_config(
        folder / "run", trace=str(folder / "trace.txt"), prompt=None, rule=None, masking_graph=True
    )
    work = Work(settings, Workdir(settings.workdir, settings), lm, None, None)
    trace = given_trace(lm, settings)
    return work, trace, masking_stage(work, trace, make=True)


def test_the_masking_graph_of_a_run(masked, lm):
    work, trace, graph = masked
    listed = json.loads((work.workdir / "masking.json").read_text())
    assert len(listed) == np.isfinite(graph.mean).sum() >= 10
    assert listed[0]["mean"] == np.nanmax(graph.mean)
    assert all(a["mean"] >= b["mean"] for a, b in zip(listed, listed[1:], strict=False))
    one = listed[5]
    assert graph.cleaned()[one["target"], one["source"]] == pytest.approx(one["cleaned"])
    found = Findings(None, trace, masking=graph)
    parts = check(report_parts(found, work.config) | {"model": study.model_facts(lm)})
    assert parts["masking"]["count"] == len(parts["masking"]["edges"]) == len(listed)
    finding = {one.method: one for one in findings(parts)}["masking"]
    assert "Deleting it" in finding.text and "distance alone predicts" in finding.text
    lines = run_facts(found, work.config, 1.0, "nothing")
    assert any(f"deleting sentence {listed[0]['source']} changes" in line for line in lines)
    released = released_trace(None, "", trace, None, None, None, masking=graph.cleaned())
    impacts = released.step_masking[one["source"]]["target_impacts"]
    assert {"target_chunk_idx": one["target"], "importance_score": one["cleaned"]} in impacts


def test_the_masking_graph_is_kept_and_shown_only_where_it_is_asked_for(masked, lm):
    work, trace, graph = masked
    again = masking_stage(work, trace, make=False)
    assert np.array_equal(again.mean, graph.mean, equal_nan=True)
    off = dataclasses.replace(work, config=dataclasses.replace(work.config, masking_graph=False))
    assert masking_stage(off, trace, make=True) is None
