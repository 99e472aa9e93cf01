"""The results of a run in the released file layout, so that other tools read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.branches import Absence
from interp_jax.studies.thought_anchors.labels.labels import Labels, apply_labels
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
    scores: Scores | None, normalised: np.ndarray | None, labels: Labels | None = None,
    masking: np.ndarray | None = None,
) -> ReleasedTrace:
    """Everything that was measured; parts that were not are left out.

    The layout has no null: a value that is not defined (accuracy of a sentence none of whose
    rollouts gave an answer) is written as 0, as the published code does. Without labels every
    tag is `unknown`.

    Args:
        problem: None for a given trace.
        prompt_text: what stands before the trace.
        normalised: suppression matrix, target by source; None if it was not measured.
        masking: cleaned masking graph, likewise.
    """
    texts = [sentence.text for sentence in trace.sentences]
    parts: dict[str, Any] = {
        "chunks": {
            "source_text": prompt_text + trace.text, "solution_text": trace.text, "chunks": texts,
        },
    }
    if normalised is not None:
        parts["step_suppression"] = impacts_from_matrix(normalised.T, texts)
    if masking is not None:
        parts["step_masking"] = impacts_from_matrix(masking.T, texts)
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
    if rollouts is not None:
        parts["rollouts"] = {
            index: [
                _rollout(prompt_text, rollouts.kept[index], texts[index], rollout)
                for rollout in own
            ]
            for index, own in rollouts.by_sentence.items()
        }
        parts["resampled"] = {
            index: [rollout.first for rollout in own]
            for index, own in rollouts.by_sentence.items()
        }
    if scores is not None:
        parts |= score_parts(scores, texts, problem.id, labels)
    return ReleasedTrace(**parts)


def score_parts(
    scores: Scores, texts: list[str], problem_idx: int | str, labels: Labels | None,
    before: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Sentence records, sentence matrix and its summary.

    Beside the released fields a record has those of CF++ (`content_...`, positive accuracy and
    log-odds: the content helps) where they are defined and, if it was measured, of resilience.

    Args:
        scores: what was measured.
        texts: of all sentences.
        problem_idx: identifier of the problem.
        labels: tags and dependencies.
        before: by sentence, records whose other fields (summary, tags) are kept.
    """
    extra = {one.chunk_idx: _branches(one) for one in scores.absences}
    for one in scores.resilience:
        extra.setdefault(one.chunk_idx, {}).update({
            "resilience": one.mean, "resilience_stayed_out_fraction": one.stayed_fraction,
        })
    labeled: list[dict[str, Any]] = []
    for one in scores.importance:
        kept = dict((before or {}).get(one.chunk_idx, {}))
        blank = {
            "chunk": texts[one.chunk_idx], "function_tags": ["unknown"], "depends_on": [],
            "summary": "",
        }
        # Further fields may be left out, so they are where they are not defined.
        more = {k: v for k, v in extra.get(one.chunk_idx, {}).items() if math.isfinite(v)}
        values = one.record() | more
        labeled.append(
            blank | kept | {name: _number(value) for name, value in values.items()}
        )
    if labels is not None:
        labeled = apply_labels(labeled, labels)
    matrix = scores.matrix.matrix
    by_index = {record["chunk_idx"]: record for record in labeled}
    every = [by_index.get(i, {"chunk": text, "chunk_idx": i}) for i, text in enumerate(texts)]
    return {
        "labeled": labeled,
        "step_importance": impacts_from_matrix(matrix, texts),
        "summary": summarise_matrix(matrix, every, problem_idx),
    }


def _branches(one: Absence) -> dict[str, float]:
    return {
        "content_importance_accuracy": one.accuracy.value,
        "content_importance_kl": one.kl.value,
        "content_importance_log_odds": one.log_odds.value,
        "content_absent_fraction": one.absent_fraction.value,
    }


def _rollout(prompt_text: str, prefix: str, removed: str, rollout: Rollout) -> dict[str, Any]:
    return {
        "chunk_removed": removed, "prefix_without_chunk": prefix,
        "chunk_resampled": rollout.first, "rollout": rollout.text,
        "full_cot": prompt_text + prefix + rollout.text, "answer": rollout.answer,
        "is_correct": rollout.correct,
    }


def _number(value: float) -> float | int:
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value
