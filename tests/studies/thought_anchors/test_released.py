"""Released layout: exact round trips, refusals, and our measures on the released traces."""

import importlib.util
import json

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.importance import overdeterminedness, sentence_importance
from interp_jax.studies.thought_anchors.normalise import (
    distance_profile,
    distance_residual,
    normalise_suppression,
    rank_agreement,
)
from interp_jax.studies.thought_anchors.released import (
    SENTENCE_KEYS,
    ReleasedTrace,
    read_trace,
    reference_prompt,
    write_trace,
)
from interp_jax.studies.thought_anchors.released_matrices import (
    impacts_from_matrix,
    matrix_from_impacts,
    summarise_matrix,
)
from interp_jax.studies.thought_anchors.rollout_pools import ImportanceConfig, RolloutPool
from interp_jax.studies.thought_anchors.sentence_matrix import outgoing
from interp_jax.text.answers import extract_boxes, normalise_latex
from interp_jax.text.embeddings import PACKAGE, load_minilm
from interp_jax.text.sentences import split_sentences

BOTH = pytest.mark.parametrize("name", ["qwen", "llama"])


def record(index, **changes):
    values = dict.fromkeys(SENTENCE_KEYS, 0.25)
    texts = {"chunk": f"Sentence {index}.", "summary": "s"}
    lists = {"function_tags": ["unknown"], "depends_on": []}
    return values | texts | lists | {"chunk_idx": index} | changes


def small_trace():
    rollout = {
        "chunk_removed": "Sentence 0.",
        "prefix_without_chunk": "",
        "chunk_resampled": "Another one.",
        "rollout": "Another one. \\boxed{2}",
        "full_cot": "p Another one. \\boxed{2}",
        "answer": "2",
        "is_correct": True,
    }
    matrix = np.array([[np.nan, 0.5], [np.nan, np.nan]])
    texts = ["Sentence 0.", "Sentence 1."]
    labeled = [record(0), record(1)]
    return ReleasedTrace(
        problem={
            "problem": "é?",
            "level": "1",
            "type": "t",
            "gt_solution": "",
            "gt_answer": "2",
            "nickname": "n",
        },
        base_solution={
            "prompt": "p ",
            "solution": "s",
            "full_cot": "p s",
            "answer": "2",
            "is_correct": True,
        },
        chunks={"source_text": "p s", "solution_text": "s", "chunks": texts},
        rollouts={0: [rollout, {"error": "timed out"}], 11: [rollout]},
        labeled=labeled,
        resampled={0: ["Another one."], 2: [], 11: ["x"]},
        step_importance=impacts_from_matrix(matrix, texts),
        step_suppression=impacts_from_matrix(-matrix, texts),
        summary=summarise_matrix(matrix, labeled, 7),
    )


@pytest.mark.core
def test_round_trip_of_every_file(tmp_path):
    trace = small_trace()
    written = write_trace(tmp_path, trace)
    assert read_trace(tmp_path) == trace
    assert sorted(path.relative_to(tmp_path).as_posix() for path in written) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")
    )


def test_records_are_written_in_the_released_order(tmp_path):
    shuffled = dict(reversed(list(record(0, extra=1).items())))
    write_trace(tmp_path, ReleasedTrace(labeled=[shuffled]))
    assert list(read_trace(tmp_path).labeled[0]) == [*SENTENCE_KEYS, "extra"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("problem.json", '{"problem": "x"', "not valid JSON"),
        ("problem.json", '{"problem": "x"}', "no field 'level'"),
        ("base_solution.json", "[]", "a list"),
        ("chunks.json", '{"source_text": "", "solution_text": "", "chunks": [1]}', "not text"),
        ("chunks_labeled.json", json.dumps([record(1), record(0)]), "out of order"),
        ("chunks_labeled.json", json.dumps([record(0, accuracy="high")]), "'accuracy' of type str"),
        ("chunks_labeled.json", json.dumps([record(0, accuracy=True)]), "'accuracy' of type bool"),
        ("chunks_labeled.json", json.dumps([record(1, depends_on=["zero"])]), "no index"),
        ("chunks_labeled.json", json.dumps([record(0)]).replace("0.25", "NaN", 1), "NaN"),
        ("chunks_resampled.json", '{"first": []}', "the entry 'first'"),
        ("step_importance.json", '[{"source_chunk_idx": 0}]', "no field 'source_chunk_text'"),
        ("summary.json", "{}", "no field 'problem_idx'"),
        ("chunk_3/solutions.json", '[{"rollout": "x"}]', "no field 'chunk_removed'"),
    ],
)
def test_malformed_files_are_refused(tmp_path, file, content, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_trace(tmp_path)
    assert file.split("/")[-1] in str(caught.value)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no trace files"):
        read_trace(tmp_path)


def test_nothing_unreadable_is_written(tmp_path):
    with pytest.raises(UserError, match="a value that JSON cannot hold"):
        write_trace(tmp_path, ReleasedTrace(labeled=[record(0, accuracy=float("nan"))]))
    with pytest.raises(UserError, match="no field 'summary'"):
        incomplete = {key: value for key, value in record(0).items() if key != "summary"}
        write_trace(tmp_path, ReleasedTrace(labeled=[incomplete]))
    assert list(tmp_path.iterdir()) == []


def test_targets_must_follow_their_source():
    impacts = impacts_from_matrix(np.array([[np.nan, 1.0], [np.nan, np.nan]]), ["a", "b"])
    with pytest.raises(UserError, match="target 1 of source 0 in a trace of 1 sentences"):
        matrix_from_impacts(impacts, 1)


@BOTH
def test_released_files_come_back_byte_for_byte(released_folder, tmp_path, name):
    folder = released_folder(name)
    written = write_trace(tmp_path, read_trace(folder))
    assert sorted(p.name for p in written) == sorted(p.name for p in folder.glob("*.json"))
    for path in written:
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@BOTH
def test_splitter_reproduces_the_released_sentences(released_folder, name):
    trace = read_trace(released_folder(name))
    released = [r["chunk"] for r in trace.labeled]
    full = trace.base_solution["full_cot"]
    sentences = split_sentences(full)
    assert [s.text for s in sentences] == released
    assert [s.text for s in split_sentences(trace.base_solution["solution"])] == released
    dropped = [s.text for s in split_sentences(full, drop_tail=True)]
    assert len(dropped) == len(released) - 1
    for sentence in sentences:
        assert full[sentence.start : sentence.end].split() == sentence.text.split()


@BOTH
def test_prompt_and_answer_of_released_traces(released_folder, name):
    trace = read_trace(released_folder(name))
    assert reference_prompt(trace.problem["problem"]) == trace.base_solution["prompt"]
    answer = extract_boxes(trace.base_solution["solution"])[0]
    assert answer == trace.base_solution["answer"]
    same = normalise_latex(answer) == normalise_latex(trace.problem["gt_answer"])
    assert same == trace.base_solution["is_correct"]


@BOTH
def test_resampling_accuracy_identity(released_folder, name):
    labeled = read_trace(released_folder(name)).labeled
    accuracy = np.array([r["accuracy"] for r in labeled])
    importance = np.array([r["resampling_importance_accuracy"] for r in labeled])
    np.testing.assert_allclose(importance[:-1], np.diff(accuracy), atol=1e-12)
    assert importance[-1] == 0
    assert importance.sum() == pytest.approx(accuracy[-1] - accuracy[0], abs=1e-12)


@BOTH
def test_overdeterminedness_of_released_replacements(released_folder, name):
    """Exact where no rollout was filtered; the site keeps replacements of filtered ones too."""
    trace = read_trace(released_folder(name))
    exact = sum(
        abs(overdeterminedness(trace.resampled[i]) - r["overdeterminedness"]) < 1e-12
        for i, r in enumerate(trace.labeled)
        if i in trace.resampled
    )
    assert (exact, len(trace.labeled)) == {"qwen": (108, 145), "llama": (10, 26)}[name]


@BOTH
def test_released_importance_matrix_and_its_summary(released_folder, name):
    trace = read_trace(released_folder(name))
    size = len(trace.labeled)
    matrix = matrix_from_impacts(trace.step_importance, size)
    np.testing.assert_array_equal(np.isfinite(matrix), np.tri(size, k=-1, dtype=bool).T)
    texts = [r["chunk"] for r in trace.labeled]
    assert impacts_from_matrix(matrix, texts) == trace.step_importance
    ours = summarise_matrix(matrix, trace.labeled, trace.summary["problem_idx"])
    for key in ("problem_idx", "num_chunks", "max_importance", "min_importance"):
        assert ours[key] == trace.summary[key]
    assert ours["avg_importance"] == pytest.approx(trace.summary["avg_importance"], abs=1e-15)
    for key, mean in (
        ("top_influential_steps", "avg_outgoing_importance"),
        ("top_dependent_steps", "avg_incoming_importance"),
    ):
        assert [s["step_idx"] for s in ours[key]] == [s["step_idx"] for s in trace.summary[key]]
        np.testing.assert_allclose(
            [s[mean] for s in ours[key]], [s[mean] for s in trace.summary[key]], atol=1e-12
        )


def test_aggregates_of_the_case_study(released_folder):
    trace = read_trace(released_folder("qwen"))
    matrix = matrix_from_impacts(trace.step_importance, 145)
    known = matrix[np.isfinite(matrix)]
    assert len(known) == 10440
    assert np.where(np.isfinite(matrix), matrix, 0).mean() == pytest.approx(0.000371, abs=5e-7)
    assert known.mean() == pytest.approx(0.000747, abs=5e-7)
    assert known.max() == pytest.approx(0.8557, abs=5e-5)
    assert known.min() == pytest.approx(-0.7064, abs=5e-5)
    assert np.nanargmax(outgoing(matrix)) == 13
    assert np.nanmax(outgoing(matrix)) == pytest.approx(0.2446, abs=5e-5)
    np.testing.assert_allclose(matrix[0, [1, 2]], [0.07, 0.03], atol=1e-12)


def test_released_suppression_matrix(released_folder):
    trace = read_trace(released_folder("qwen"))
    matrix = matrix_from_impacts(trace.step_suppression, 145).T
    np.testing.assert_array_equal(np.isfinite(matrix), np.tri(145, k=-1, dtype=bool))
    assert matrix[1, 0] == 0
    assert np.abs(np.nanmean(matrix[1:], axis=1)).max() < 6e-15
    np.testing.assert_allclose(normalise_suppression(matrix), matrix, atol=1e-12)
    np.testing.assert_allclose(matrix[[6, 7, 8], 5], [1.83234, 0.91410, 1.35462], atol=5e-6)
    assert np.nanmin(matrix) == pytest.approx(-7.66, abs=5e-3)
    assert np.nanmax(matrix) == pytest.approx(18.68, abs=5e-3)
    assert np.nanstd(matrix) == pytest.approx(1.92, abs=5e-3)
    profile = distance_profile(matrix)[[1, 2, 3, 5, 10, 40]]
    np.testing.assert_allclose(profile, [7.66, 3.58, 2.13, 1.08, -0.02, -0.37], atol=5e-3)


def test_the_two_released_matrices_agree_little(released_folder):
    """Recomputed agreement within 5 sentences lies between .05 and .18 on all eight traces."""
    trace = read_trace(released_folder("qwen"))
    suppression = matrix_from_impacts(trace.step_suppression, 145)
    resampling = matrix_from_impacts(trace.step_importance, 145)
    near, pairs = rank_agreement(suppression, resampling, within=5)
    assert 0.05 <= near <= 0.18
    assert pairs == sum(145 - distance for distance in range(1, 6))
    residual = distance_residual(suppression.T).T
    assert abs(np.nanmean(residual)) < 0.05


def test_released_different_trajectories_fraction(released_folder):
    """Exact wherever the replacement list is the one behind the record, the last one apart."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"package {PACKAGE} is not installed")
    trace = read_trace(released_folder("llama"))
    complete = [
        (r, trace.resampled[i])
        for i, r in enumerate(trace.labeled[:-1])
        if abs(overdeterminedness(trace.resampled[i]) - r["overdeterminedness"]) < 1e-12
    ]
    assert len(complete) >= 9
    complete = complete[:3]  # fractions .68, .95 and 0
    texts = [text for r, replaced in complete for text in (r["chunk"], *replaced)]
    vectors = dict(zip(texts, load_minilm().encode(texts), strict=True))
    for r, replaced in complete:
        cosines = [float(vectors[r["chunk"]] @ vectors[text]) for text in replaced]
        pool = RolloutPool(["x"] * len(replaced), [False] * len(replaced), cosines, replaced)
        ours = sentence_importance({0: pool}, ImportanceConfig(draws=0))[0]
        assert ours.different_trajectories_fraction.value == r["different_trajectories_fraction"]
        assert ours.overdeterminedness == r["overdeterminedness"]
