"""The results of a run in the released file layout, so that other tools read them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.released import ReleasedTrace
from interp_jax.studies.thought_anchors.released_matrices import (
    impacts_from_matrix,
    summarise_matrix,
)
from interp_jax.studies.thought_anchors.rollouts import Rollout, Rollouts, is_right
from interp_jax.studies.thought_anchors.scoring import Scores


def released_trace(
    problem: Problem | None, prompt_text: str, trace: Trace, rollouts: Rollouts | None,
    scores: Scores | None, normalised: np.ndarray,
) -> ReleasedTrace:
    """Everything that was measured; parts that were not are left out.

    The layout has no null: a value that is not defined (accuracy of a sentence none of whose
    rollouts gave an answer) is written as 0, as the published code does. Sentences are not
    labelled, so every tag is `unknown`.

    Args:
        problem: None for a given trace.
        prompt_text: what stands before the trace.
        normalised: suppression matrix, target by source.
    """
    texts = [sentence.text for sentence in trace.sentences]
    parts: dict[str, Any] = {
        "chunks": {
            "source_text": prompt_text + trace.text, "solution_text": trace.text, "chunks": texts,
        },
        "step_suppression": impacts_from_matrix(normalised.T, texts),
    }
    if problem is not None:
        parts["problem"] = {
            "problem": problem.question, "level": "", "type": problem.source, "gt_solution": "",
            "gt_answer": problem.answer or "", "nickname": problem.id,
        }
        parts["base_solution"] = {
            "prompt": prompt_text, "solution": trace.text, "full_cot": prompt_text + trace.text,
            "answer": problem.extract(trace.text),
            "is_correct": is_right(problem, trace.text, trace),
        }
    if rollouts is not None and scores is not None:
        parts |= _rollout_parts(problem, prompt_text, trace, rollouts, scores, texts)
    return ReleasedTrace(**parts)


def _rollout_parts(problem, prompt_text, trace, rollouts, scores, texts) -> dict[str, Any]:
    labeled = [
        {
            "chunk": texts[one.chunk_idx], "function_tags": ["unknown"], "depends_on": [],
            "summary": "", **{name: _number(value) for name, value in one.record().items()},
        }
        for one in scores.importance
    ]
    matrix = scores.matrix.matrix
    return {
        "rollouts": {
            index: [_rollout(prompt_text, trace, texts, index, rollout) for rollout in own]
            for index, own in rollouts.by_sentence.items()
        },
        "labeled": labeled,
        "resampled": {
            index: [rollout.first for rollout in own]
            for index, own in rollouts.by_sentence.items()
        },
        "step_importance": impacts_from_matrix(matrix, texts),
        "summary": summarise_matrix(matrix, labeled, problem.id),
    }


def _rollout(
    prompt_text: str, trace: Trace, texts: list[str], index: int, rollout: Rollout
) -> dict[str, Any]:
    prefix = trace.text[: trace.cuts[index]]
    return {
        "chunk_removed": texts[index], "prefix_without_chunk": prefix,
        "chunk_resampled": rollout.first, "rollout": rollout.text,
        "full_cot": prompt_text + prefix + rollout.text, "answer": rollout.answer,
        "is_correct": rollout.correct,
    }


def _number(value: float) -> float | int:
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value
