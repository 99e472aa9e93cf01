"""Matrices of the released layout: records to arrays, arrays to records, and their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.sentence_matrix import incoming, outgoing


def matrix_from_impacts(records: Sequence[Mapping[str, Any]], size: int) -> np.ndarray:
    """Array `[size, size]`, source by target, from `step_importance.json` records; NaN elsewhere.

    Raises:
        UserError: an index lies outside, or a target is not after its source.
    """
    matrix = np.full((size, size), np.nan)
    for record in records:
        source = record["source_chunk_idx"]
        for impact in record["target_impacts"]:
            target = impact["target_chunk_idx"]
            if not 0 <= source < target < size:
                raise UserError(
                    found=f"target {target} of source {source} in a trace of {size} sentences",
                    expected="targets after their source",
                    do="check that matrix and sentences are of one trace",
                )
            matrix[source, target] = impact["importance_score"]
    return matrix


def impacts_from_matrix(matrix: np.ndarray, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """Records of `step_importance.json` from an array source by target; unknown cells left out."""
    return [
        {
            "source_chunk_idx": source,
            "source_chunk_text": text,
            "target_impacts": [
                {"target_chunk_idx": target, "importance_score": float(matrix[source, target])}
                for target in range(source + 1, len(sentences))
                if np.isfinite(matrix[source, target])
            ],
        }
        for source, text in enumerate(sentences)
    ]


def summarise_matrix(
    matrix: np.ndarray, labeled: Sequence[Mapping[str, Any]], problem_idx: int | str, top: int = 5
) -> dict[str, Any]:
    """The content of `summary.json`.

    As released, average, largest and smallest value are over ALL cells of the square matrix,
    those that are not defined counted as zero, and the top lists are ordered by mean.

    Args:
        matrix: `[S, S]`, source by target.
        labeled: sentence records, copied into the lists.
        problem_idx: identifier of the problem.
        top: length of the lists.
    """
    filled = np.where(np.isfinite(matrix), matrix, 0.0)

    def strongest(means: np.ndarray, name: str) -> list[dict[str, Any]]:
        order = np.argsort(-np.nan_to_num(means, nan=-np.inf), kind="stable")
        return [
            {"step_idx": int(i), "step_text": dict(labeled[i]), name: float(means[i])}
            for i in order[:top]
            if np.isfinite(means[i])
        ]

    return {
        "problem_idx": problem_idx,
        "num_chunks": len(matrix),
        "avg_importance": float(filled.mean()) if filled.size else 0.0,
        "max_importance": float(filled.max(initial=0.0)),
        "min_importance": float(filled.min(initial=0.0)),
        "top_influential_steps": strongest(outgoing(matrix), "avg_outgoing_importance"),
        "top_dependent_steps": strongest(incoming(matrix), "avg_incoming_importance"),
    }
