"""Made-up traces in the released layout: two models, right and wrong, one of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from interp_jax.studies.thought_anchors.released import SENTENCE_KEYS, ReleasedTrace, write_trace
from interp_jax.studies.thought_anchors.released_matrices import impacts_from_matrix
from tests.studies.thought_anchors.synthetic_report import SENTENCES

TAGS = (
    "problem_setup", "fact_retrieval", "active_computation", "active_computation",
    "uncertainty_management", "plan_generation", "active_computation", "active_computation",
    "active_computation", "self_checking", "result_consolidation", "final_answer_emission",
)  # fmt: skip
COUNT = len(SENTENCES)
PIVOT = 5


def make_matrices(seed: int = 0, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Resampling and normalised suppression, source by target."""
    rng = np.random.default_rng(seed)
    source, target = np.mgrid[:count, :count]
    later = source < target
    resampling = np.round(np.clip(rng.normal(0.0, 0.2, (count, count)), -0.6, 0.6), 3)
    if count == COUNT:
        resampling[0, 3], resampling[0, 7] = 0.9, -0.8  # sentence 0 has links of both signs
    suppression = 4.0 / np.maximum(1, target - source) + rng.normal(0, 0.7, (count, count))
    resampling, suppression = (np.where(later, m, np.nan) for m in (resampling, suppression))
    for column in range(1, count):  # mean zero for each target
        suppression[:, column] -= np.nanmean(suppression[:, column])
    return resampling, suppression


def make_trace(seed: int = 0, texts=SENTENCES, correct: bool = True, **changes) -> ReleasedTrace:
    """A whole trace: records with signed values, both matrices, replacements."""
    rng = np.random.default_rng(seed + 100)
    count = len(texts)
    labeled = []
    for i, text in enumerate(texts):
        values = dict.fromkeys(SENTENCE_KEYS, 0.0)
        move = 0.48 if i == PIVOT else float(rng.normal(0, 0.06))
        values |= {
            "chunk": text, "chunk_idx": i, "function_tags": [TAGS[i % len(TAGS)]],
            "depends_on": [str(i - 1)] if i else [], "summary": f"step {i}",
            "accuracy": 0.4 if i <= PIVOT else 0.9, "different_trajectories_fraction": 0.5,
            "overdeterminedness": 0.25, "resampling_importance_accuracy": move,
            "counterfactual_importance_accuracy": -move,
            "resampling_importance_kl": abs(move) * 2,
            "counterfactual_importance_kl": 1.25 if i == PIVOT else abs(move),
        }  # fmt: skip
        labeled.append(values)
    resampling, suppression = make_matrices(seed, count)
    trace = {
        "problem": {
            "problem": "In a barn are 3 cows, 2 hens and 1 spider.\nHow many legs are there?",
            "level": "Level 5", "type": "Counting", "gt_solution": "", "gt_answer": "24",
            "nickname": "Legs in the barn",
        },
        "base_solution": {
            "prompt": "p", "solution": " ".join(texts), "full_cot": "p" + " ".join(texts),
            "answer": "24" if correct else "22", "is_correct": correct,
        },
        "labeled": labeled,
        "resampled": {
            i: [f"Other way {k % (9 + i % 2)} to say it." for k in range(40)] for i in range(count)
        },
        "step_importance": impacts_from_matrix(resampling, list(texts)),
        "step_suppression": impacts_from_matrix(suppression, list(texts)),
    }  # fmt: skip
    return ReleasedTrace(**(trace | changes))


def make_rollouts(trace: ReleasedTrace, per_sentence: int = 8) -> dict[int, list[dict]]:
    """Rollouts whose replacement is the trace's own sentence every fourth time."""
    return {
        record["chunk_idx"]: [
            {
                "chunk_removed": record["chunk"], "prefix_without_chunk": "",
                "chunk_resampled": record["chunk"] if k % 4 == 0 else f"Something else {k % 2}.",
                "rollout": "r", "full_cot": "f", "answer": "24" if k % 3 else "",
                "is_correct": bool(k % 3),
            }
            for k in range(per_sentence)
        ]
        for record in trace.labeled
    }  # fmt: skip


def write_traces(root: Path) -> Path:
    """Writes three traces of the released tree and one of a run; returns the root."""
    tree = "temperature_0.6_top_p_0.95"
    write_trace(root / "alpha" / tree / "correct_base_solution/problem_7", make_trace(0))
    wrong = make_trace(1, correct=False, step_suppression=None)
    write_trace(root / "alpha" / tree / "incorrect_base_solution/problem_7", wrong)
    write_trace(root / "beta/incorrect_base_solution/problem_8", make_trace(2, correct=False))
    own = make_trace(3)
    own = make_trace(
        3, rollouts=make_rollouts(own), resampled=None, base_solution=None, problem=None
    )
    write_trace(root / "runs/mine/trace", own)
    (root / "runs/mine/config.json").write_text(json.dumps({"model": "models/gamma-1b"}))
    return root
