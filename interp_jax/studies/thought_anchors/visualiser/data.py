"""One trace of the released layout as the page shows it.

`trace_payload(trace)` gives JSON types. N is the number of sentences, counted from 0; `null` is
"not in the files".

    question, answer, right_answer   text | null
    is_correct    of the base solution, or null where no right answer is known
    sentences     N of {text | null, tags: [text], summary | null, depends: [earlier index]}
    values        field of the sentence records -> N numbers or null, plus
                  `outgoing_resampling`, `outgoing_suppression` and `outgoing_masking`: mean effect
                  on later sentences
    resampling, suppression, masking null, or N rows, source by target; row s holds the effects on
                  sentences s+1 ... N-1 (null where unknown)
    alternatives  N lists of {text, count, answers: {answer: count} | null, right | null}, most
                  frequent first: what the model wrote in the sentence's place
    notes         sentences on what was left out

Numbers keep six significant digits; the files keep them all.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.released import SENTENCE_KEYS, ReleasedTrace
from interp_jax.studies.thought_anchors.released_matrices import matrix_from_impacts
from interp_jax.studies.thought_anchors.sentence_matrix import outgoing

_TEXTS = ("chunk", "chunk_idx", "function_tags", "depends_on", "summary")
VALUES = tuple(key for key in SENTENCE_KEYS if key not in _TEXTS)
"""Fields of a sentence record that are numbers."""


def trace_payload(trace: ReleasedTrace) -> dict[str, Any]:
    """Everything the page shows of one trace; the layout is in the module's docstring.

    Raises:
        UserError: the files disagree on how many sentences there are.
    """
    texts = _texts(trace)
    size = len(texts)
    records = {record["chunk_idx"]: record for record in trace.labeled or []}
    matrices = {
        "resampling": _matrix(trace.step_importance, size),
        "suppression": _matrix(trace.step_suppression, size),
        "masking": _matrix(trace.step_masking, size),
    }
    sentences, dropped = [], 0
    for index, text in enumerate(texts):
        record = records.get(index, {})
        named = [int(other) for other in record.get("depends_on", [])]
        # A sentence can only depend on what was said before it.
        earlier = sorted({other for other in named if other < index})
        dropped += len(set(named)) - len(earlier)
        sentences.append(
            {
                "text": text,
                "tags": record.get("function_tags") or ["unknown"],
                "summary": record.get("summary") or None,
                "depends": earlier,
            }
        )
    values = {name: _values(name, records, size) for name in VALUES} if records else {}
    for name, matrix in matrices.items():
        if matrix is not None:
            values[f"outgoing_{name}"] = [_rounded(value) for value in outgoing(matrix)]
    base, problem = trace.base_solution or {}, trace.problem or {}
    notes = []
    if records and not is_graded(trace):
        notes.append(
            "The right answer is not known: accuracy means agreement with this trace's own answer."
        )
    if dropped:
        notes.append(f"{dropped} dependencies named no earlier sentence and are left out.")
    return {
        "question": problem.get("problem"),
        "answer": base.get("answer") or None,
        "right_answer": problem.get("gt_answer") or None,
        "is_correct": base.get("is_correct") if is_graded(trace) else None,
        "sentences": sentences,
        "values": values,
        **{name: _triangle(matrix) for name, matrix in matrices.items()},
        "alternatives": [_alternatives(trace, index) for index in range(size)],
        "notes": notes,
    }


def is_graded(trace: ReleasedTrace) -> bool:
    """Whether the base solution was held against a right answer (a run may have none)."""
    known = trace.problem is None or bool(trace.problem["gt_answer"])
    return known and trace.base_solution is not None


def _texts(trace: ReleasedTrace) -> list[str | None]:
    """The sentences by index, from the most to the least direct file; None: in no file."""
    known: dict[int, str] = {}
    for records in (trace.step_masking, trace.step_suppression, trace.step_importance):
        known |= {r["source_chunk_idx"]: r["source_chunk_text"] for r in records or []}
    known |= {record["chunk_idx"]: record["chunk"] for record in trace.labeled or []}
    if trace.chunks is None:
        size = max(known, default=-1) + 1
    else:
        size = len(trace.chunks["chunks"])
        known |= dict(enumerate(trace.chunks["chunks"]))
    if not known or max(known) >= size or min(known) < 0:
        raise UserError(
            found=f"sentence {max(known, default=None)} in a trace of {size} sentences",
            expected="files of one trace, with the same sentences",
            do="make the files again from one run",
        )
    return [known.get(index) for index in range(size)]


def _values(name: str, records: dict[int, dict[str, Any]], size: int) -> list[float | None]:
    return [_rounded(records[i][name]) if i in records else None for i in range(size)]


def _matrix(records: list[dict[str, Any]] | None, size: int) -> np.ndarray | None:
    return matrix_from_impacts(records, size) if records else None


def _triangle(matrix: np.ndarray | None) -> list[list[float | None]] | None:
    if matrix is None:
        return None
    return [[_rounded(value) for value in row[s + 1 :]] for s, row in enumerate(matrix)]


def _rounded(value: float) -> float | None:
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _alternatives(trace: ReleasedTrace, index: int) -> list[dict[str, Any]]:
    """Replacements that are the same text, character for character, are one entry."""
    rollouts = [r for r in (trace.rollouts or {}).get(index, []) if "error" not in r]
    groups: dict[str, dict[str, Any]] = {}
    if rollouts:
        for rollout in rollouts:
            group = groups.setdefault(
                rollout["chunk_resampled"],
                {"count": 0, "answers": collections.Counter(), "right": 0},
            )
            group["count"] += 1
            group["answers"][rollout["answer"]] += 1
            group["right"] += rollout["is_correct"]
    else:
        for text, count in collections.Counter((trace.resampled or {}).get(index, [])).items():
            groups[text] = {"count": count, "answers": None, "right": None}
    listed = [{"text": text, **group} for text, group in groups.items()]
    return sorted(listed, key=lambda group: -group["count"])
