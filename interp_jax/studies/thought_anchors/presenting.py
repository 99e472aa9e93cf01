"""The results of a run as the report wants them (`report_data`)."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp_jax.studies.thought_anchors.ablation_answers import CONDITIONS
from interp_jax.studies.thought_anchors.ablation_stage import Ablation
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.branches import Absence, Resilience
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.demo_problem import DEMO
from interp_jax.studies.thought_anchors.forced import ForcedAnswers
from interp_jax.studies.thought_anchors.importance import SentenceImportance
from interp_jax.studies.thought_anchors.intervals import wilson_interval
from interp_jax.studies.thought_anchors.labels.labels import Labels
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME
from interp_jax.studies.thought_anchors.masking_graph import MaskingGraph
from interp_jax.studies.thought_anchors.masking_stage import edges
from interp_jax.studies.thought_anchors.normalise import (
    distance_profile,
    normalise_suppression,
    shuffled_source_null,
    source_importance,
)
from interp_jax.studies.thought_anchors.presenting_ablation import ablation_part
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.receiver import ReceiverHeads, too_short
from interp_jax.studies.thought_anchors.rollout_pools import Estimate
from interp_jax.studies.thought_anchors.rollouts import Rollout, Rollouts, is_right
from interp_jax.studies.thought_anchors.scoring import Scores
from interp_jax.studies.thought_anchors.suppression import Suppression

_MEASURES = {
    "resampling_accuracy": "resampling_importance_accuracy",
    "resampling_kl": "resampling_importance_kl",
    "counterfactual_accuracy": "counterfactual_importance_accuracy",
    "counterfactual_kl": "counterfactual_importance_kl",
}
_FORCED = {
    "forced_accuracy": "forced_importance_accuracy",
    "forced_kl": "forced_importance_kl",
}

ROLLOUT_PREFIXES = {
    "joined": "Rollouts continue the sentences before theirs joined by single spaces, tokenised "
    "anew, and not the trace's own tokens.",
    "reference": "Rollouts continue the sentences up to theirs joined by single spaces, with every "
    "occurrence of its text deleted, as the published code does; where that text also stands "
    "earlier, more than the sentence is missing.",
}
MOST_EDGES = 40

# A source that equals the null's 95 % point does not clear it, whatever the rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class Findings:
    """All results of a run; parts that were not measured are None.

    `normalised` is a suppression matrix, target by source, of which only the normalised form is
    known (released files).
    """

    problem: Problem | None
    trace: Trace
    rollouts: Rollouts | None = None
    scores: Scores | None = None
    receiver: ReceiverHeads | None = None
    suppression: Suppression | None = None
    forced: ForcedAnswers | None = None
    labels: Labels | None = None
    normalised: np.ndarray | None = None
    masking: MaskingGraph | None = None
    ablation: Ablation | None = None

    def with_parts(self, **parts: Any) -> Findings:
        """The same with further parts."""
        return dataclasses.replace(self, **parts)


def report_parts(found: Findings, config: ThoughtAnchorsConfig) -> dict[str, Any]:
    """Everything in the report but the model and the run."""
    trace, problem = found.trace, found.problem
    what = config.trace if problem is None else problem.id.replace("_", " ")
    parts = {
        "title": f"Which sentence mattered? {what}",
        "problem": None if problem is None else _problem(problem, found, config),
        "trace": trace_part(trace, problem, found.labels),
        "receiver": _receiver(found, len(trace.sentences)),
        "suppression": _suppression(found, config.seed),
        "masking": _masking(found, config.seed),
        "ablation": ablation_part(found.ablation),
        "notes": notes(found, config),
    }
    if problem is None:
        why = "This trace was given as a text; the model did not write it, so it is not continued."
        return parts | {"resampling": {"not_shown": why}}
    if found.rollouts is None:
        return parts
    rollouts = found.rollouts
    parts["rollouts"] = {
        "per_sentence": config.rollouts, "unfinished_share": rollouts.unfinished_share,
        "unanswered_share": rollouts.unanswered_share, "temperature": config.temperature,
        "top_p": config.top_p, "max_new_tokens": config.max_new_tokens,
        "similarity_threshold": config.similarity_threshold,
    }
    if found.scores is None:
        why = "The rollouts are there, but they have not been scored: run --stage=score."
        return parts | {"resampling": {"not_shown": why}}
    return parts | {
        "resampling": resampling_part(
            found.scores, rollouts.by_sentence, len(trace.sentences)
        ),
        "sentence_matrix": found.scores.matrix.matrix,
    }


def resampling_part(
    scores: Scores, rollouts: Mapping[int, tuple[Rollout, ...]], count: int
) -> list[dict[str, Any]]:
    """One entry for each of `count` sentences; those without rollouts have nothing in theirs."""
    absent = {one.chunk_idx: one for one in scores.absences}
    resilient = {one.chunk_idx: one for one in scores.resilience}
    entries: list[dict[str, Any]] = [{"n": 0, "answers": {}} for _ in range(count)]
    for one in scores.importance:
        index = one.chunk_idx
        entry = _resampling(one, rollouts[index], scores.cosines[index], scores.forced)
        entry["content"] = _content(absent.get(index), resilient.get(index))
        entries[index] = entry
    return entries


def notes(found: Findings, config: ThoughtAnchorsConfig) -> list[str]:
    """What a reader must know to read the numbers, in sentences."""
    lines = []
    problem, rollouts = found.problem, found.rollouts
    if config.smoke:
        lines.append("A smoke test: sizes are too small for any number here to mean anything.")
    if problem is not None and problem.answer is None and problem.score is None:
        lines.append(
            "The right answer is not known: accuracy means agreement with the base trace's answer."
        )
    if rollouts is not None:
        lines.append("A rollout that ran into its budget counts as having no answer.")
        answers = collections.Counter(r.answer for r in rollouts.all if r.answer)
        if not rollouts.all:
            pass
        elif not answers:
            lines.append("No rollout gave an answer, so no effect on answers can be shown.")
        elif len(answers) == 1:
            lines.append(
                "Every rollout gave the same answer: this model on this problem cannot show an "
                "effect on answers."
            )
        elif not any(r.correct for r in rollouts.all):
            lines.append(
                "No rollout was right: accuracy cannot move, and only the KL of answers can."
            )
        if config.adaptive_width is not None:
            lines.append(rollouts.saved(config))
    if found.forced is not None:
        lines.append(
            f"Forced answers: {found.forced.unanswered_share:.1%} gave no complete answer within "
            f"{config.forced_max_new_tokens} tokens."
        )
    if found.scores is not None and found.scores.absences:
        lines.append(
            "A rollout is without a sentence's content if none of its own sentences comes within "
            f"cosine {config.content_threshold:g} of it."
        )
    if found.labels is not None:
        how = f" ({found.labels.version})" if found.labels.by == "rules" else ""
        lines.append(f"Labels of sentences are by {found.labels.by}{how}.")
    if config.rollout_prefix != "trace" and rollouts is not None:
        lines.append(ROLLOUT_PREFIXES[config.rollout_prefix])
    if found.trace.finish == "length":
        lines.append("The base trace ran into its budget and does not end by itself.")
    if found.suppression is None and found.normalised is None:
        return lines
    lines.append(
        "Attention suppression compares exact distributions over the whole vocabulary at "
        "temperature 0.6. What distance alone predicts is the mean after shuffling sources among "
        "pairs at the same distance; its intervals are as wide as that shuffle's 95 % point."
        if found.suppression is not None else
        "The suppression matrix is the released one, of another model and another way of "
        "comparing distributions; what distance alone predicts is computed here."
    )
    keyless = np.zeros(0)
    if found.suppression is not None:
        keyless = np.flatnonzero(found.suppression.keyless)
    if keyless.size:
        lines.append(
            f"Hiding sentence {keyless[0]} leaves some of its own tokens with nothing to attend to."
        )
    return lines


def _problem(problem: Problem, found: Findings, config: ThoughtAnchorsConfig) -> dict[str, Any]:
    right: set[str] = set()
    if found.rollouts is not None:
        right |= {r.answer for r in found.rollouts.all if r.correct}
    screen = None
    if problem.source == DEMO.spec and config.model == DEMO.model and DEMO.samples:
        low, high = wilson_interval(DEMO.correct, DEMO.samples)
        screen = {
            "candidates": DEMO.candidates, "accuracy": DEMO.correct / DEMO.samples,
            "interval": [float(low), float(high)], "n": DEMO.samples, "chosen_by": DEMO.chosen_by,
        }
    return {
        "id": problem.id, "question": problem.question, "answer": problem.answer,
        "rule": problem.rule, "correct_answers": sorted(right), "screen": screen,
    }


def trace_part(
    trace: Trace, problem: Problem | None, labels: Labels | None
) -> dict[str, Any]:
    """The trace with its sentences, their tags and what they build on."""
    known = problem is not None and (problem.answer is not None or problem.score is not None)
    tags = sorted(set(labels.main), key=list(BY_NAME).index) if labels is not None else []
    return {
        "text": trace.text,
        "answer": (problem.extract(trace.text) or None) if problem is not None else None,
        "is_correct": is_right(problem, trace.text, trace) if known else None,
        "tags": [
            {
                "name": name, "words": name.replace("_", " "), "short": BY_NAME[name].short,
                "meaning": BY_NAME[name].meaning, "colour": BY_NAME[name].colour,
            }
            for name in tags
        ],
        "sentences": [
            {
                "index": index, "text": sentence.text, "start": sentence.start,
                "end": sentence.end,
                "tokens": int(span[1] - span[0]) if len(trace.tokens) else None,
                "label": None if labels is None else labels.main[index],
                "depends_on": None if labels is None else list(labels.depends_on[index]),
            }
            for index, (sentence, span) in enumerate(
                zip(trace.sentences, trace.ranges, strict=True)
            )
        ],
    }


def _resampling(
    one: SentenceImportance, rollouts: tuple[Rollout, ...], cosines: np.ndarray, forced: bool
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "n": len(rollouts),
        "answers": dict(collections.Counter(r.answer for r in rollouts if r.answer)),
        "accuracy": one.accuracy.value,
        "interval": _interval(one.accuracy),
        "different_trajectories": one.different_trajectories_fraction.value,
        "overdeterminedness": one.overdeterminedness,
        "alternatives": [
            {
                "text": r.first, "similarity": float(cosine), "answer": r.answer or None,
                "is_correct": r.correct if r.answer else None,
            }
            for r, cosine in zip(rollouts, cosines, strict=True)
        ],
    }
    # The last sentence has no next one to be compared with.
    for name, field in (_MEASURES | (_FORCED if forced else {})).items():
        estimate: Estimate = getattr(one, field)
        if name in _MEASURES and (one.next_index is None or not one.kept):
            estimate = Estimate(float("nan"))
        entry[name], entry[f"{name}_interval"] = estimate.value, _interval(estimate)
        if name.endswith("kl"):
            entry[f"{name}_null"] = estimate.null_high
    return entry


def _content(absent: Absence | None, resilient: Resilience | None) -> dict[str, Any] | None:
    """CF++ and resilience of a sentence."""
    if absent is None:
        return None
    entry: dict[str, Any] = {"absent": absent.absent, "present": absent.present}
    for name in ("absent_fraction", "accuracy", "kl", "log_odds"):
        estimate: Estimate = getattr(absent, name)
        entry[name], entry[f"{name}_interval"] = estimate.value, _interval(estimate)
    entry["kl_null"] = absent.kl.null_high
    if resilient is not None:
        entry |= {
            "resilience": resilient.mean, "stayed_out": resilient.stayed_fraction,
            "chains": len(resilient.removals),
        }
    return entry


def _receiver(found: Findings, sentences: int) -> dict[str, Any] | None:
    receiver = found.receiver
    if receiver is None:
        short = too_short(sentences)
        # Long enough, so it has not been looked at yet.
        return None if short is None else {"not_shown": short}
    return {
        "heads": [
            {"layer": layer, "head": head, "kurtosis": float(receiver.kurtosis[layer, head])}
            for layer, head in receiver.heads
        ],
        "scores": receiver.scores, "heatmap": receiver.kurtosis,
        # Heads with nothing to look for rest on the first token of all.
        "sink": bool(len(found.trace.tokens)) and int(found.trace.spans[0, 0]) == 0,
    }


def _suppression(found: Findings, seed: int) -> dict[str, Any] | None:
    effects = None if found.suppression is None else found.suppression.effects
    if effects is None and found.normalised is None:
        return None
    matrix = found.normalised if effects is None else normalise_suppression(effects)
    size = len(matrix)
    if size < 2:
        return {"not_shown": "A single sentence has no later one to disturb."}
    raw = None if effects is None else np.where(np.isfinite(matrix), effects, np.nan)
    return _over_sources(matrix, raw, seed) | {
        "mode": "exact" if effects is not None else "released"
    }


def _masking(found: Findings, seed: int) -> dict[str, Any] | None:
    graph = found.masking
    if graph is None:
        return None
    if not np.isfinite(graph.mean).any():
        return {"not_shown": "No sentence has a later one far enough from the end."}
    listed = edges(graph)
    return _over_sources(graph.cleaned(), graph.mean, seed) | {
        "edges": listed[:MOST_EDGES], "count": len(listed),
    }


def _over_sources(matrix: np.ndarray, raw: np.ndarray | None, seed: int) -> dict[str, Any]:
    """A normalised matrix, target by source, with what distance alone would give."""
    profile, outgoing = distance_profile(matrix), source_importance(matrix)
    null = shuffled_source_null(matrix, seed=seed)
    # As wide as the null: an interval that clears the expected value is one whose source lies
    # above the null's 95 % point. Few targets are no sample that could be redrawn.
    half = null.high - null.mean + _TIE
    return {
        "matrix": matrix, "raw": raw, "outgoing": outgoing,
        "outgoing_intervals": [
            [value - width, value + width] if np.isfinite(value) and width >= 0 else None
            for value, width in zip(outgoing.tolist(), half.tolist(), strict=True)
        ],
        "distance_profile": profile[1:],
        "control": {"outgoing": null.mean, "explained": _explained(matrix, profile)},
    }


def _explained(matrix: np.ndarray, profile: np.ndarray) -> float | None:
    """Share of variance that the distance between sentences explains."""
    rows, columns = np.nonzero(np.isfinite(matrix))
    values = matrix[rows, columns]
    total = np.square(values - values.mean()).sum()
    if total == 0:
        return None
    return float(1 - np.square(values - profile[rows - columns]).sum() / total)


def _interval(estimate: Estimate) -> list[float] | None:
    ends = estimate.low, estimate.high
    return [float(end) for end in ends] if np.isfinite(ends).all() else None


def scalars(found: Findings) -> Mapping[str, float]:
    """The numbers that sum up a run."""
    values: dict[str, float] = {"sentences": len(found.trace.sentences)}
    if found.rollouts is not None and found.scores is not None and found.scores.importance:
        kl = [one.resampling_importance_kl.value for one in found.scores.importance]
        values |= {
            "rollouts/unfinished_share": found.rollouts.unfinished_share,
            "rollouts/unanswered_share": found.rollouts.unanswered_share,
            "importance/largest_resampling_kl": float(np.max(kl)),
        }
    if found.ablation is not None and found.ablation.answers is not None:
        answers = found.ablation.answers
        values |= {f"ablation/accuracy_{n}": answers.accuracy(n).value for n in CONDITIONS}
    return values
