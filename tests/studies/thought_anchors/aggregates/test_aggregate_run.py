"""Aggregation from end to end: finding traces, what is written, what is said of what is missing."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.aggregates.anchors import anchor
from interp_jax.studies.thought_anchors.aggregates.config import AggregateConfig
from interp_jax.studies.thought_anchors.aggregates.found import find_traces
from interp_jax.studies.thought_anchors.aggregates.measures import measure_folder, measure_trace
from interp_jax.studies.thought_anchors.aggregates.run import run
from interp_jax.studies.thought_anchors.released import write_trace
from tests.studies.thought_anchors.aggregates.synthetic_traces import (
    make_trace,
    where,
    write_release,
)

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "scripts" / "thought_anchors_aggregate.py"


def aggregated(root, workdir, **choices):
    return run(AggregateConfig(traces=(str(root),), workdir=str(workdir), draws=40, **choices))


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Three correct and three incorrect traces, the incorrect ones without suppression."""
    root = write_release(tmp_path_factory.mktemp("release"), 3)
    write_release(root, 3, kind="incorrect", suppression=False)
    return root, aggregated(root, tmp_path_factory.mktemp("out"))


def rows(result, name):
    with (result.workdir / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written_and_says_the_same(six):
    _, result = six
    data = json.loads((result.workdir / "aggregate.json").read_text())
    assert data == result.data
    assert list(data["groups"]) == [
        "all traces", "some-model, correct", "some-model, incorrect"
    ]  # fmt: skip
    assert data["groups"]["some-model, correct"]["members"] == [0, 1, 2]
    assert result.page.read_text().startswith("<!doctype html>")
    tags = rows(result, "categories.csv")
    entry = next(r for r in tags if r["group"] == "all traces"
                 and r["measure"] == "counterfactual_importance_kl"
                 and r["tag"] == "plan_generation")  # fmt: skip
    table = data["groups"]["all traces"]["categories"]["counterfactual_importance_kl"]
    assert float(entry["mean"]) == table["tags"]["plan_generation"]["over"]["mean"]
    assert entry["traces"] == "6"
    for name in ("traces", "shares", "category_tests", "correlations", "matrix_correlations",
                 "distance", "explained", "anchors"):  # fmt: skip
        assert rows(result, f"{name}.csv")
    assert len(data["inputs"]) == 6 and data["versions"]["interp_jax"]


def test_nothing_undefined_is_written_as_a_number(six):
    _, result = six
    for path in result.workdir.glob("*.csv"):
        assert "nan" not in path.read_text().lower().split(","), path.name
    assert "NaN" not in (result.workdir / "aggregate.json").read_text()


def test_traces_without_suppression_are_told_and_do_not_count(six):
    _, result = six
    assert "3 of 6 traces lack an attention-suppression matrix." in result.notes
    assert "6 of 6 traces lack receiver scores." in result.notes
    groups = result.data["groups"]
    assert groups["all traces"]["profiles"]["suppression"]["traces"] == 3
    assert all(one["over"]["traces"] == 3 for one in groups["all traces"]["matrices"])
    assert "suppression" not in groups["some-model, incorrect"]["profiles"]
    assert groups["some-model, incorrect"]["matrices"] == []
    assert any("of 3 problems" in note for note in result.notes)


def test_the_same_command_again_gives_the_same_and_another_is_refused(six):
    root, result = six
    assert aggregated(root, result.workdir).data == result.data
    with pytest.raises(UserError, match="within: .mean. there, .median. now"):
        aggregated(root, result.workdir, within="median")


def test_one_trace_says_that_errors_are_undefined(tmp_path):
    result = aggregated(write_release(tmp_path / "one", 1), tmp_path / "out")
    assert result.notes[0].startswith("There is one trace: standard errors")
    assert list(result.data["groups"]) == ["all traces"]
    for entry in rows(result, "categories.csv"):
        assert entry["mean"] and entry["se"] == "" and entry["low"] == ""
    assert all(entry["p_t"] == "" for entry in rows(result, "category_tests.csv"))


def test_a_short_trace_gives_what_it_can(tmp_path):
    write_trace(tmp_path / "one" / "p", make_trace(0, size=1))
    write_trace(tmp_path / "one" / "q", make_trace(0, size=2))
    result = aggregated(tmp_path / "one", tmp_path / "out", convergence="none")
    assert [t["sentences"] for t in result.data["traces"]] == [1, 2]
    assert result.data["groups"]["all traces"]["agreements"] == []


def test_finding_names_traces_and_skips_what_is_none(tmp_path):
    write_release(tmp_path, 1)
    sampled = tmp_path / "big" / "temperature_0.6_top_p_0.95" / "incorrect_base_solution" / "p_7"
    write_trace(sampled, make_trace(1))
    (sampled / "chunk_0").mkdir()
    (sampled / "chunk_0" / "chunks_labeled.json").write_text("[]")
    write_trace(tmp_path / "runs" / "mine" / "trace", make_trace(2))
    (tmp_path / "runs" / "mine" / "provenance.json").write_text('{"model": "tiny"}')
    (tmp_path / "runs" / "empty").mkdir()
    found = find_traces([tmp_path, tmp_path / "big"])
    assert [one.name for one in found] == [
        "big / incorrect / p_7", "tiny / mine", "some-model / correct / problem_0",
    ]  # fmt: skip


def test_rollouts_give_headroom_and_unanswered_sentences_have_no_accuracy():
    trace = make_trace(0, size=8)
    shared = {"chunk_removed": "", "prefix_without_chunk": "", "chunk_resampled": "",
              "rollout": "", "full_cot": "", "is_correct": False}  # fmt: skip
    answers = {0: ["1", "1", "2", "2"], 1: ["3"] * 4, 2: ["", "None"]}
    rollouts = {
        i: [shared | {"answer": a} for a in texts] + [{"error": "timed out"}]
        for i, texts in answers.items()
    }
    for record in trace.labeled:
        record["accuracy"] = 0.0
    given = measure_trace(type(trace)(**(vars(trace) | {"rollouts": rollouts})), where())
    assert given.headroom_from == "answers"
    np.testing.assert_allclose(given.headroom[:2], [np.log(2), 0.0])
    assert np.isnan(given.headroom[2:]).all()
    assert np.isnan(given.accuracy[2:]).all() and (given.accuracy[:2] == 0).all()
    plain = measure_trace(trace, where())
    assert plain.headroom_from == "accuracy" and (plain.headroom == 0).all()


def test_receiver_scores_beside_a_trace_are_used_and_must_fit(tmp_path):
    folder = tmp_path / "run" / "trace"
    write_trace(folder, make_trace(0, size=10))
    np.savez(tmp_path / "run" / "white_box.npz", scores=np.arange(10.0))
    (found,) = find_traces([tmp_path])
    np.testing.assert_array_equal(measure_folder(found).values["receiver"], np.arange(10.0))
    np.savez(tmp_path / "run" / "white_box.npz", scores=np.arange(9.0))
    with pytest.raises(UserError, match="receiver scores of shape"):
        measure_folder(found)
    (tmp_path / "run" / "white_box.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="white_box.npz, which cannot be read"):
        measure_folder(found)


def test_indices_with_gaps_keep_their_cells():
    """Sentences shorter than four characters are not analysed: indices then have gaps."""
    trace = make_trace(0, size=6)
    whole = measure_trace(trace, where())
    gapped = type(trace)(**(vars(trace) | {"labeled": trace.labeled[:2] + trace.labeled[3:]}))
    kept = [0, 1, 3, 4, 5]
    found = measure_trace(gapped, where())
    np.testing.assert_array_equal(found.indices, kept)
    np.testing.assert_array_equal(found.resampling, whole.resampling[np.ix_(kept, kept)])
    assert anchor(found, 3).text == "Sentence 3."


def test_no_traces_and_broken_ones_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no traces in"):
        find_traces([tmp_path / "empty"])
    with pytest.raises(UserError, match="no folder at"):
        find_traces([tmp_path / "absent"])
    with pytest.raises(UserError, match="no folders to search"):
        AggregateConfig(traces=())
    (tmp_path / "empty" / "chunks_labeled.json").write_text("[]")
    with pytest.raises(UserError, match="no sentence records"):
        aggregated(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "chunks_labeled.json").write_text("[{]")
    with pytest.raises(UserError, match="not valid JSON"):
        aggregated(tmp_path / "empty", tmp_path / "out")


def command(*flags):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=120,
        env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip


def test_the_command_aggregates_and_tells_bad_input_in_one_sentence(tmp_path):
    root = write_release(tmp_path / "release", 1)
    done = command(f"--traces={root}", f"--workdir={tmp_path}/out", "--draws=20")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "There is one trace" in done.stdout
    assert f"Open {tmp_path}/out/aggregate.html" in done.stdout
    bad = command(f"--traces={tmp_path}/absent", f"--workdir={tmp_path}/none")
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert bad.stderr.strip().splitlines()[-1].startswith("Found no folder at")
    assert not (tmp_path / "none").exists()


def test_help_names_every_flag():
    done = command("--help")
    assert "Examples:" in done.stdout
    for name in AggregateConfig.__dataclass_fields__:
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout
