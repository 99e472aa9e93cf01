"""The site's files: which traces are found, what is shown of them, nothing half-done."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.released import ReleasedTrace, read_trace, write_trace
from interp_jax.studies.thought_anchors.visualiser import site as site_module
from interp_jax.studies.thought_anchors.visualiser.data import VALUES, trace_payload
from interp_jax.studies.thought_anchors.visualiser.finding import describe, find_traces
from interp_jax.studies.thought_anchors.visualiser.site import SiteConfig, build_site
from tests.studies.thought_anchors.visualiser.synthetic_traces import (
    COUNT,
    make_matrices,
    make_rollouts,
    make_trace,
    write_traces,
)

ROOT = pathlib.Path(__file__).resolve().parents[4]


def payload_of(site, part):
    """The data of the one data file whose name contains `part`, as the page will get it."""
    (path,) = [p for p in (site / "data").iterdir() if part in p.name]
    text = path.read_text(encoding="ascii")
    assert text.startswith("report.register(") and text.endswith(");\n")
    identifier, payload = json.loads("[" + text[len("report.register(") : -3] + "]")
    assert path.name.startswith(identifier + ".")
    return payload


def test_traces_are_found_in_any_nesting_and_named_by_their_path(tmp_path):
    root = write_traces(tmp_path)
    # Forced answers are rollouts of the same trace; a trace given twice is one.
    write_trace(root / "alpha/correct_base_solution_forced_answer/problem_7", make_trace())
    found = find_traces([root, root / "runs", root / "runs/mine/trace"])
    assert [describe(folder, read_trace(folder)) for folder in found] == [
        {"model": model, "outcome": outcome, "problem": problem, "title": title}
        for model, outcome, problem, title in (
            ("alpha", "correct", "7", "Legs in the barn"),
            ("alpha", "incorrect", "7", "Legs in the barn"),
            ("beta", "incorrect", "8", "Legs in the barn"),
            ("gamma-1b", "unknown", "mine", ""),
        )
    ]


def test_payload_holds_what_the_files_hold():
    trace = make_trace()
    payload = trace_payload(trace)
    resampling, suppression = make_matrices()
    for name, matrix in (("resampling", resampling), ("suppression", suppression)):
        shown = np.full((COUNT, COUNT), np.nan)
        for source, row in enumerate(payload[name]):
            assert len(row) == COUNT - 1 - source
            shown[source, source + 1 :] = row
        np.testing.assert_allclose(shown, matrix, rtol=1e-5)
        means = [np.nanmean(row) for row in matrix[:-1]]
        assert payload["values"][f"outgoing_{name}"][-1] is None
        np.testing.assert_allclose(payload["values"][f"outgoing_{name}"][:-1], means, rtol=1e-5)
    for name in VALUES:
        kept = [record[name] for record in trace.labeled]
        np.testing.assert_allclose(payload["values"][name], kept, rtol=1e-5)
    assert [s["text"] for s in payload["sentences"]] == [r["chunk"] for r in trace.labeled]
    assert payload["sentences"][4]["depends"] == [3] and payload["notes"] == []


def test_dependencies_on_later_sentences_are_left_out_and_counted():
    trace = make_trace()
    trace.labeled[2]["depends_on"] = ["0", "2", "7", "0"]
    payload = trace_payload(trace)
    assert payload["sentences"][2]["depends"] == [0]
    assert payload["notes"] == ["2 dependencies named no earlier sentence and are left out."]


def test_without_a_right_answer_nothing_is_called_correct():
    trace = make_trace()
    trace.problem["gt_answer"] = ""
    payload = trace_payload(trace)
    assert payload["is_correct"] is None and payload["right_answer"] is None
    assert "agreement with this trace's own answer" in payload["notes"][0]
    assert describe(pathlib.Path("/runs/one/trace"), trace)["outcome"] == "unknown"
    graded = describe(pathlib.Path("/runs/one/trace"), make_trace(correct=False))
    assert graded["outcome"] == "incorrect"


def test_same_replacements_are_one_entry_with_its_answers():
    trace = make_trace(1)
    groups = trace_payload(trace)["alternatives"][0]
    assert [group["count"] for group in groups] == [5, 5, 5, 5, 4, 4, 4, 4, 4]
    assert groups[0] == {
        "text": "Other way 0 to say it.", "count": 5, "answers": None, "right": None,
    }  # fmt: skip
    trace = dataclasses.replace(trace, rollouts=make_rollouts(trace))
    groups = trace_payload(trace)["alternatives"][0]
    assert groups[0] == {
        "text": "Something else 1.", "count": 4, "answers": {"24": 3, "": 1}, "right": 3,
    }  # fmt: skip
    assert sum(group["count"] for group in groups) == 8


def test_a_part_of_the_files_is_enough():
    whole = make_trace()
    texts = [record["chunk"] for record in whole.labeled]
    chunks = {"source_text": "", "solution_text": "", "chunks": texts}
    payload = trace_payload(ReleasedTrace(chunks=chunks))
    assert [s["tags"] for s in payload["sentences"]] == [["unknown"]] * COUNT
    assert payload["values"] == {} and payload["resampling"] is None
    # A sentence that only a later index tells of has no text, and is there.
    gap = trace_payload(ReleasedTrace(labeled=[whole.labeled[0], whole.labeled[2]]))
    assert [s["text"] for s in gap["sentences"]] == [texts[0], None, texts[2]]
    assert gap["values"]["accuracy"][1] is None


def test_files_of_different_traces_are_refused(tmp_path):
    chunks = {"source_text": "", "solution_text": "", "chunks": ["Only one sentence."]}
    write_trace(tmp_path / "mixed", make_trace(chunks=chunks))
    with pytest.raises(UserError, match="sentence 11 in a trace of 1 sentences .*mixed"):
        build_site([tmp_path], tmp_path / "site")
    assert not (tmp_path / "site" / "index.html").exists()


def test_a_rebuild_replaces_the_site_and_a_failed_one_leaves_it(tmp_path, monkeypatch):
    root, out = write_traces(tmp_path / "traces"), tmp_path / "site"
    build_site([root], out)
    contents = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert len(contents) == 5
    build_site([root], out)  # the same traces give the same bytes
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == contents

    changed = root / "alpha/temperature_0.6_top_p_0.95/correct_base_solution/problem_7"
    write_trace(changed, make_trace(9))
    (root / "beta/incorrect_base_solution/problem_8/chunks_labeled.json").write_text("[{")
    with pytest.raises(UserError, match="not valid JSON"):
        build_site([root], out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == contents

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(site_module, "write_page", full)
    with pytest.raises(UserError, match="no space left"):
        build_site([changed], out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == contents
    monkeypatch.undo()

    (out / "data" / "notes.txt").write_text("mine")  # not ours: let alone
    build_site([changed], out)
    names = sorted(p.name for p in (out / "data").iterdir())
    assert len(names) == 2 and names[1] == "notes.txt"
    assert contents.get(out / "data" / names[0]) is None


def test_bad_places_and_bad_folders_are_refused(tmp_path):
    root = write_traces(tmp_path / "traces")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/index.html").write_text("<p>my page</p>")
    for folders, out, said in (
        ([root], tmp_path / "other", "another page at"),
        ([root], tmp_path / "other/index.html", "a file at"),
        ([tmp_path / "absent"], tmp_path / "new", "no folder"),
        ([tmp_path / "other"], tmp_path / "new", "no traces in"),
    ):
        with pytest.raises(UserError, match=said):
            build_site(folders, out)
    assert (tmp_path / "other/index.html").read_text() == "<p>my page</p>"
    assert not (tmp_path / "new").exists()


def test_two_traces_of_one_name_have_two_files(tmp_path):
    for name in ("a", "b"):
        write_trace(tmp_path / name / "m/correct_base_solution/problem_1", make_trace())
    build_site([tmp_path / "a", tmp_path / "b"], tmp_path / "site")
    names = sorted(p.name.split(".")[0] for p in (tmp_path / "site/data").iterdir())
    assert names == ["m--correct--1", "m--correct--1--2"]


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1))
def test_any_text_reaches_the_page_unchanged_and_breaks_out_of_nothing(text):
    payload = trace_payload(make_trace(texts=(text, "A second sentence.")))
    written = site_module.embed_json(payload)
    assert written.isascii() and "<" not in written and "&" not in written
    assert json.loads(written)["sentences"][0]["text"] == text


def test_page_policy_names_its_scripts_and_the_files_beside_it(tmp_path):
    index = build_site([write_traces(tmp_path / "t")], tmp_path / "site")
    page = index.read_text(encoding="utf-8")
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src &#x27;none&#x27;" in policy and "unsafe" not in policy
    assert policy.count("&#x27;self&#x27; file:") == 1
    assert "http:" not in policy and "https:" not in policy


def test_released_traces(released_folder, tmp_path):
    folders = [released_folder("qwen"), released_folder("llama")]
    build_site(folders, tmp_path / "site")
    payload = payload_of(tmp_path / "site", "4682")
    assert len(payload["sentences"]) == 145 and payload["is_correct"] is True
    assert max(map(max, payload["resampling"][:-1])) == pytest.approx(0.8557, abs=5e-5)
    assert min(map(min, payload["resampling"][:-1])) == pytest.approx(-0.7064, abs=5e-5)
    means = payload["values"]["outgoing_resampling"]
    assert max(range(144), key=means.__getitem__) == 13
    assert means[13] == pytest.approx(0.2446, abs=5e-5)
    assert payload["sentences"][13]["depends"] == [12]
    assert sum(group["count"] for group in payload["alternatives"][13]) == 97
    # Overdeterminedness is 1 - distinct / all; 0.649485 in the released record.
    assert 1 - len(payload["alternatives"][13]) / 97 == pytest.approx(0.649485, abs=1e-6)
    other = payload_of(tmp_path / "site", "330")
    assert len(other["sentences"]) == 26 and other["suppression"] is None


def test_command_builds_a_site_and_tells_bad_input_in_one_sentence(tmp_path):
    write_traces(tmp_path / "traces")
    script = ROOT / "scripts" / "thought_anchors_site.py"
    run = lambda *flags: subprocess.run(
        [sys.executable, str(script), *flags], capture_output=True, text=True, timeout=120,
        env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip
    done = run(f"--traces={tmp_path}/traces", f"--out={tmp_path}/site")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traces: 4" in done.stdout and f"Open {tmp_path}/site/index.html" in done.stdout
    bad = run(f"--traces={tmp_path}/absent", f"--out={tmp_path}/other")
    assert bad.returncode == 2 and "no folder" in bad.stderr and "Traceback" not in bad.stderr
    assert set(SiteConfig.__dataclass_fields__) == {"traces", "out"}
