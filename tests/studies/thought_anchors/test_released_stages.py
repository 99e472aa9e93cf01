"""Stages alone on a trace in the released layout: what they recompute, and that they only read."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors import run as study
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.released import (
    ReleasedTrace,
    read_trace,
    reference_prompt,
    write_trace,
)
from interp_jax.studies.thought_anchors.released_matrices import matrix_from_impacts
from tests.studies.thought_anchors.small_study import MODEL

pytestmark = pytest.mark.usefixtures("one_encoder")

SENTENCES = [
    "Alice has two cats and two dogs.", "So there are two and two of them.",
    "Let me count all of them once.", "The total number is four.",
]
TEXT = " ".join(SENTENCES)
OTHER = "The Queen was very angry with the gardeners."
# Right answers among four rollouts at each sentence; at 2 a request failed.
RIGHT = {0: 1, 1: 1, 2: 3, 3: 4}


def record(index, number, right):
    first = SENTENCES[index] if number % 2 else OTHER
    answer = r"4" if right else r"\dfrac{1}{2}"
    return {
        "chunk_removed": SENTENCES[index], "prefix_without_chunk": " ".join(SENTENCES[:index]),
        "chunk_resampled": first, "rollout": f"{first} It is \\boxed{{{answer}}}.",
        "full_cot": "", "answer": answer, "is_correct": right,
    }


def make_folder(root, **over):
    prompt = reference_prompt("How many?")
    parts = {
        "problem": {
            "problem": "How many?", "level": "", "type": "", "gt_solution": "", "gt_answer": "4",
            "nickname": "cats",
        },
        "base_solution": {
            "prompt": prompt, "solution": TEXT + "\n</think>\n\nSo it is \\boxed{4}.",
            "full_cot": prompt + TEXT, "answer": "4", "is_correct": True,
        },
        "chunks": {"source_text": prompt + TEXT, "solution_text": TEXT, "chunks": SENTENCES},
        "rollouts": {
            i: [record(i, n, n < right) for n in range(4)] for i, right in RIGHT.items()
        },
    }
    parts["rollouts"][2].append({"error": "timeout"})
    folder = root / "some-model" / "correct_base_solution" / "problem_7"
    write_trace(folder, ReleasedTrace(**parts | over))
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "released")


def config(folder, workdir, **over):
    return ThoughtAnchorsConfig(
        workdir=str(workdir), released=str(folder), model=MODEL, batch_size=4, **over
    )


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def embedded(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


def test_score_recomputes_importance_matrix_and_summary(folder, tmp_path):
    before = contents(folder)
    result = study.run(config(folder, tmp_path / "run", stage="score"))
    assert result.report is None and contents(folder) == before
    made = read_trace(tmp_path / "run" / "trace")
    accuracy = [RIGHT[i] / 4 for i in range(4)]
    assert [one["accuracy"] for one in made.labeled] == accuracy
    assert [one["resampling_importance_accuracy"] for one in made.labeled] == pytest.approx(
        [*np.diff(accuracy), 0]
    )
    # Half of the replacements say something else; at 0 the right one of the two is among them.
    assert {one["different_trajectories_fraction"] for one in made.labeled} == {0.5}
    assert made.labeled[0]["counterfactual_importance_accuracy"] == pytest.approx(0.5 - 0.25)
    assert {one["overdeterminedness"] for one in made.labeled} == {0.5}
    assert made.resampled[2] == [OTHER, SENTENCES[2]] * 2
    matrix = matrix_from_impacts(made.step_importance, 4)
    assert matrix[0, 1] == 0.5  # half of the rollouts at 1 say S_1 again, none at 0 does
    assert made.summary["num_chunks"] == 4 and made.summary["problem_idx"] == "problem_7"
    answers = result.found.rollouts.by_sentence[0]
    assert {one.answer for one in answers} == {"4", r"\frac12"}  # under the published spelling
    assert len(result.found.rollouts.by_sentence[2]) == 4  # the failed request is left out


def test_other_fields_of_the_records_are_kept_and_labels_replace_only_labels(folder, tmp_path):
    study.run(config(folder, tmp_path / "run", stage="score"))
    labeled = read_trace(tmp_path / "run" / "trace").labeled
    labeled[1] |= {"function_tags": ["self_checking"], "depends_on": ["0"], "summary": "counts"}
    make_folder(tmp_path / "released", labeled=labeled)
    study.run(config(folder, tmp_path / "again", stage="score"))
    again = read_trace(tmp_path / "again" / "trace").labeled
    assert again == labeled
    result = study.run(config(folder, tmp_path / "again", stage="labels"))
    relabeled = read_trace(tmp_path / "again" / "trace").labeled
    assert result.found.labels.by == "rules" and relabeled[1]["summary"] == "counts"
    tags = [one["function_tags"] for one in relabeled]
    assert tags == [list(own) for own in result.found.labels.tags] and tags[1] != ["unknown"]
    assert [one["accuracy"] for one in relabeled] == [one["accuracy"] for one in labeled]


def test_forced_answers_beside_the_folder_are_scored(folder, tmp_path):
    beside = folder.parent.with_name("correct_base_solution_forced_answer") / folder.name
    write_trace(beside, ReleasedTrace(rollouts={
        i: [record(i, n, i >= 2) for n in range(4)] for i in range(4)
    }))
    study.run(config(folder, tmp_path / "run", stage="score"))
    labeled = read_trace(tmp_path / "run" / "trace").labeled
    assert [one["forced_importance_accuracy"] for one in labeled] == [0, 1, 0, 0]


def test_the_whole_run_reads_the_text_with_a_model_and_reports(folder, tmp_path):
    result = study.run(config(folder, tmp_path / "run"))
    assert result.report.exists()
    trace, effects = result.trace, result.found.suppression.effects
    assert effects.shape == (4, 4) and len(trace.tokens) == trace.ranges[-1, 1]
    assert np.isfinite(effects).all()
    supp = read_trace(tmp_path / "run" / "trace").step_suppression
    assert np.isfinite(matrix_from_impacts(supp, 4)).sum() == 6
    report = embedded(result.report)
    assert report["title"].endswith("some-model on problem 7")
    assert report["model"]["layers"] is None and report["problem"]["answer"] == "4"
    assert [one["n"] for one in report["resampling"]] == [4, 4, 4, 4]
    assert any("did not write it" in note for note in report["notes"])
    assert all(sentence["label"] for sentence in report["trace"]["sentences"])
    # The report alone, of what is there, needs no model.
    again = study.run(config(folder, tmp_path / "run", stage="report"))
    shown = embedded(again.report)
    for name in ("resampling", "suppression", "sentence_matrix", "receiver"):
        assert shown[name] == report[name], name
    assert [s["label"] for s in shown["trace"]["sentences"]] == [
        s["label"] for s in report["trace"]["sentences"]
    ]


def test_values_without_rollouts_are_shown_without_intervals(folder, tmp_path):
    study.run(config(folder, tmp_path / "run", stage="score"))
    made = read_trace(tmp_path / "run" / "trace")
    bare = tmp_path / "bare" / "problem_7"
    write_trace(bare, ReleasedTrace(
        base_solution=read_trace(folder).base_solution, labeled=made.labeled,
        resampled=made.resampled, step_importance=made.step_importance,
    ))
    result = study.run(config(bare, tmp_path / "shown", stage="report"))
    report = embedded(result.report)
    entry = report["resampling"][1]
    assert entry["n"] == 0 and entry["accuracy"] == 0.25 and entry["interval"] is None
    assert len(entry["alternatives"]) == 4 and "forced_kl" not in entry
    assert report["suppression"] is None and report["sentence_matrix"][0][1] == 0.5
    assert {f["status"] for f in report["findings"]} <= {"untested", "not shown"}
    with pytest.raises(UserError, match=r"no .*chunk_0/solutions.json"):
        study.run(config(bare, tmp_path / "shown2", stage="score"))


def test_a_text_that_is_absent_or_not_the_sentences_is_told(folder, tmp_path):
    alone = tmp_path / "alone"
    write_trace(alone, ReleasedTrace(resampled={0: ["a"]}))
    with pytest.raises(UserError, match="neither base_solution.json nor chunks.json"):
        study.run(config(alone, tmp_path / "run", stage="report"))
    chunks = read_trace(folder).chunks
    make_folder(tmp_path / "released", chunks=chunks | {"chunks": SENTENCES[:-1]})
    with pytest.raises(UserError, match="a list of 3 sentences .* not the 4"):
        study.run(config(folder, tmp_path / "run", stage="report"))
    with pytest.raises(UserError, match="no trace files"):
        study.run(config(tmp_path / "nowhere", tmp_path / "run", stage="report"))
    assert not (tmp_path / "run").exists()


def test_the_released_traces_make_a_report(released_folder, tmp_path):
    result = study.run(config(released_folder("llama"), tmp_path / "run", stage="report"))
    report = embedded(result.report)
    assert len(report["trace"]["sentences"]) == 26
    assert {tag["name"] for tag in report["trace"]["tags"]} <= set(
        "plan_generation active_computation final_answer_emission".split()
    )
