"""Sentence records of a released trace as the report wants them, where the rollouts are absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MEASURES = ("resampling", "counterfactual", "forced")


def recorded_resampling(
    labeled: Sequence[Mapping[str, Any]], resampled: Mapping[int, Sequence[str]], count: int
) -> list[dict[str, Any]]:
    """One entry per sentence: the recorded values, without intervals, and what stood there instead.

    A KL that is recorded as slightly negative (the published estimator clips, other tools do not)
    is shown as 0. Forced importance that is zero everywhere was not measured.

    Args:
        labeled: sentence records.
        resampled: replacement sentences by index.
        count: of sentences; those without a record have no values.
    """
    records = {record["chunk_idx"]: record for record in labeled}
    forced = any(record["forced_importance_kl"] for record in labeled)
    entries = []
    for index in range(count):
        record = records.get(index)
        entry: dict[str, Any] = {
            "n": 0, "answers": {}, "accuracy": None, "interval": None,
            "different_trajectories": None, "overdeterminedness": None,
            "alternatives": [
                {"text": text, "similarity": None, "answer": None, "is_correct": None}
                for text in resampled.get(index, ())
            ],
        }
        if record is not None:
            entry |= {
                "accuracy": record["accuracy"],
                "different_trajectories": record["different_trajectories_fraction"],
                "overdeterminedness": record["overdeterminedness"],
            }
            for name in _MEASURES:
                if name == "forced" and not forced:
                    continue
                entry[f"{name}_accuracy"] = record[f"{name}_importance_accuracy"]
                entry[f"{name}_kl"] = max(record[f"{name}_importance_kl"], 0.0)
        entries.append(entry)
    return entries
