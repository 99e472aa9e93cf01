"""One trace as arrays: every measure of importance per sentence, and the two matrices.

Only what aggregation needs is kept, so that traces with gigabytes of rollouts can be read one
after another. What was not measured is NaN here, also where the released records write 0:

- a kind (resampling, counterfactual, forced) whose accuracy AND KL are 0 in every sentence;
- the last sentence's values, which have no next sentence to compare with.

A counterfactual value of a sentence that was never replaced by a dissimilar one stays 0, as in
the paper (arXiv 2506.19143).
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.aggregates.found import FoundTrace
from interp_jax.studies.thought_anchors.importance import SIGNS
from interp_jax.studies.thought_anchors.normalise import distance_residual, source_importance
from interp_jax.studies.thought_anchors.released import ReleasedTrace, read_trace
from interp_jax.studies.thought_anchors.released_matrices import matrix_from_impacts
from interp_jax.studies.thought_anchors.sentence_matrix import incoming, outgoing
from interp_jax.text.answers import normalise_latex

KINDS = ("resampling", "counterfactual", "forced")
MEASURES: dict[str, str] = {
    **{
        f"{kind}_importance_{what}": f"{kind.capitalize()}, {title}"
        for kind in KINDS
        for what, title in (("accuracy", "accuracy"), ("kl", "KL"))
    },
    "different_trajectories_fraction": "Different trajectories",
    "overdeterminedness": "Overdeterminedness",
    "outgoing": "Outgoing, sentence matrix",
    "incoming": "Incoming, sentence matrix",
    "suppression": "Attention suppression",
    "suppression_residual": "Suppression beyond distance",
    "receiver": "Receiver score",
}
"""Measures of a sentence and their titles. Accuracies are turned so that positive = it helps."""

_WHITE_BOX = "white_box.npz"


@dataclass(frozen=True)
class TraceMeasures:
    """What aggregation knows of one trace of S sentences.

    Attributes:
        where: its folder, model, kind and problem.
        kind: `correct` or `incorrect` (from the base solution), or `unknown`.
        indices: int `[S]`, `chunk_idx` of the records.
        texts: S sentences.
        tags: S tuples of function tags.
        accuracy: float64 `[S]`, before each sentence; NaN where no rollout gave an answer.
        values: measure -> float64 `[S]`; accuracies times their sign in `importance.SIGNS`.
            A measure without any value is absent.
        headroom: float64 `[S]`, entropy in nats of the answers before each sentence: what a
            sentence could still move.
        headroom_from: `answers` (of the rollouts) or `accuracy` (entropy of right or wrong).
        resampling, suppression: `[S, S]`, target by source, or None.
    """

    where: FoundTrace
    kind: str
    indices: np.ndarray
    texts: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    accuracy: np.ndarray
    values: Mapping[str, np.ndarray]
    headroom: np.ndarray
    headroom_from: str
    resampling: np.ndarray | None
    suppression: np.ndarray | None

    def __len__(self) -> int:
        return len(self.indices)


def measure_folder(where: FoundTrace) -> TraceMeasures:
    """Reads one trace and measures it.

    Raises:
        UserError: its files are malformed or do not fit each other.
    """
    trace = read_trace(where.folder)
    return measure_trace(trace, where, receiver=_receiver_scores(where.folder, trace))


def measure_trace(
    trace: ReleasedTrace, where: FoundTrace, *, receiver: np.ndarray | None = None
) -> TraceMeasures:
    """The measures of a trace that has been read.

    Args:
        trace: with sentence records.
        where: its names.
        receiver: receiver scores `[S]`, if there are any.

    Raises:
        UserError: no sentence records, matrices of another trace, or S scores are not given.
    """
    records = trace.labeled
    if not records:
        raise UserError(
            found=f"no sentence records in {where.folder}",
            expected="chunks_labeled.json with one record per sentence",
            do="score the trace first, or leave the folder out",
        )
    indices = np.asarray([record["chunk_idx"] for record in records])
    values = _recorded(records)
    resampling = _matrix(trace.step_importance, indices)
    suppression = _matrix(trace.step_suppression, indices)
    if resampling is not None:
        values["outgoing"], values["incoming"] = outgoing(resampling.T), incoming(resampling.T)
    if suppression is not None:
        values["suppression"] = source_importance(suppression)
        values["suppression_residual"] = source_importance(distance_residual(suppression))
    if receiver is not None:
        if np.shape(receiver) != (len(records),):
            raise UserError(
                found=f"receiver scores of shape {np.shape(receiver)} for {len(records)} sentences",
                expected="one score per sentence",
                do="make scores and records from the same trace",
            )
        values["receiver"] = np.asarray(receiver, np.float64)
    accuracy = np.asarray([record["accuracy"] for record in records], np.float64)
    headroom, source = _headroom(trace, indices, accuracy)
    if trace.rollouts:
        answered = np.asarray([bool(_answers(trace.rollouts.get(i, ()))) for i in indices.tolist()])
        # The layout has no null: an accuracy of no answers at all is written as 0.
        accuracy = np.where(answered, accuracy, np.nan)
    kind = where.kind or "unknown"
    if trace.base_solution is not None:
        kind = "correct" if trace.base_solution["is_correct"] else "incorrect"
    return TraceMeasures(
        where=where,
        kind=kind,
        indices=indices,
        texts=tuple(record["chunk"] for record in records),
        tags=tuple(tuple(dict.fromkeys(r["function_tags"])) or ("unknown",) for r in records),
        accuracy=accuracy,
        values={name: values[name] for name in MEASURES if name in values},
        headroom=headroom,
        headroom_from=source,
        resampling=resampling,
        suppression=suppression,
    )


def _recorded(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Signed values of the records; absent where nothing was measured."""

    def column(name: str) -> np.ndarray:
        values = np.asarray([record[name] for record in records], np.float64)
        values[-1] = np.nan  # nothing follows the last sentence, and its record says 0
        return values * SIGNS.get(name, 1) + 0.0  # no negative zeros

    found = {}
    for kind in KINDS:
        pair = {f"{kind}_importance_{what}" for what in ("accuracy", "kl")}
        columns = {name: column(name) for name in sorted(pair)}
        if any(np.nan_to_num(values).any() for values in columns.values()):
            found |= columns
    for name in ("different_trajectories_fraction", "overdeterminedness"):
        values = column(name)
        if np.nan_to_num(values).any():
            found[name] = values
    return found


def _matrix(impacts: Sequence[Mapping[str, Any]] | None, indices: np.ndarray) -> np.ndarray | None:
    """Target by source over the recorded sentences; None without cells."""
    if not impacts or len(indices) < 2:
        return None
    size = 1 + max(int(indices.max()), max(record["source_chunk_idx"] for record in impacts))
    matrix = matrix_from_impacts(impacts, size)[np.ix_(indices, indices)].T
    return matrix if np.isfinite(matrix).any() else None


def answer_entropy(counts: Sequence[int]) -> float:
    """Entropy in nats of counted answers; NaN without any."""
    counts = np.asarray(counts, np.float64)
    counts = counts[counts > 0]
    if not len(counts):
        return float("nan")
    shares = counts / counts.sum()
    return float(np.maximum(-(shares * np.log(shares)).sum(), 0.0))


def _headroom(
    trace: ReleasedTrace, indices: np.ndarray, accuracy: np.ndarray
) -> tuple[np.ndarray, str]:
    if trace.rollouts:
        counts = [Counter(_answers(trace.rollouts.get(i, ()))) for i in indices.tolist()]
        return np.asarray([answer_entropy(list(c.values())) for c in counts]), "answers"
    return np.asarray([answer_entropy([p, 1.0 - p]) for p in accuracy.tolist()]), "accuracy"


def _answers(rollouts: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = (record["answer"] for record in rollouts if "error" not in record)
    return [normalise_latex(text) for text in texts if text and text != "None"]


def _receiver_scores(folder: Path, trace: ReleasedTrace) -> np.ndarray | None:
    """Scores that a run of ours left beside its trace."""
    for path in (folder / _WHITE_BOX, folder.parent / _WHITE_BOX):
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                return kept["scores"] if "scores" in kept.files else None
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                found=f"{path}, which cannot be read ({error})",
                expected="an npz file of arrays",
                do="make it again, or take it away",
            ) from error
    return None
