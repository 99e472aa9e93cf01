"""The released file layout of a thought-anchors trace: reading and writing.

One folder holds one trace. Files of the public rollout data set (`problem.json`,
`base_solution.json`, `chunks.json`, `chunk_<i>/solutions.json`, `chunks_labeled.json`) and of the
public visualiser (`chunks_resampled.json`, `step_importance.json`, `step_importance_supp.json`,
`summary.json`) are understood, and one of our own (`step_importance_masking.json`); any of them may
be absent. What is read is written back with the
same values, key order and bytes. Fields beyond the documented ones are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_jax.runtime.atomic import atomic_write_text
from interp_jax.runtime.errors import UserError

Record = dict[str, Any]

SENTENCE_KEYS = (
    "chunk",
    "chunk_idx",
    "function_tags",
    "depends_on",
    "accuracy",
    "resampling_importance_accuracy",
    "resampling_importance_kl",
    "counterfactual_importance_accuracy",
    "counterfactual_importance_kl",
    "forced_importance_accuracy",
    "forced_importance_kl",
    "different_trajectories_fraction",
    "overdeterminedness",
    "summary",
)
"""Fields of a record of `chunks_labeled.json`, in the order in which they are written."""

_NUMBER = (int, float)
_SENTENCE = dict.fromkeys(SENTENCE_KEYS, _NUMBER) | {
    "chunk": str,
    "chunk_idx": int,
    "function_tags": list,
    "depends_on": list,
    "summary": str,
}
_PROBLEM = dict.fromkeys(("problem", "level", "type", "gt_solution", "gt_answer"), str)
_BASE = dict.fromkeys(("prompt", "solution", "full_cot", "answer"), str) | {"is_correct": bool}
_CHUNKS = {"source_text": str, "solution_text": str, "chunks": list}
_ROLLOUT = dict.fromkeys(
    ("chunk_removed", "prefix_without_chunk", "chunk_resampled", "rollout", "full_cot", "answer"),
    str,
) | {"is_correct": bool}
_SOURCE = {"source_chunk_idx": int, "source_chunk_text": str, "target_impacts": list}
_TARGET = {"target_chunk_idx": int, "importance_score": _NUMBER}
_SUMMARY = {
    "problem_idx": (int, str),
    "num_chunks": int,
    "avg_importance": _NUMBER,
    "max_importance": _NUMBER,
    "min_importance": _NUMBER,
    "top_influential_steps": list,
    "top_dependent_steps": list,
}
_FOLDER = re.compile(r"chunk_(\d+)")


@dataclass(frozen=True)
class ReleasedTrace:
    """The files of one trace, as parsed JSON. None or an empty mapping: no such file.

    Attributes:
        problem: `problem, level, type, gt_solution, gt_answer, nickname`.
        base_solution: `prompt, solution, full_cot, answer, is_correct`.
        chunks: `source_text, solution_text, chunks`.
        rollouts: by sentence index, the list in `chunk_<i>/solutions.json`; a failed request has
            `error` instead of the other fields.
        labeled: sentence records with the fields `SENTENCE_KEYS`.
        resampled: by sentence index, replacement first sentences.
        step_importance, step_suppression: sources with their targets (resampling matrix and
            normalised suppression matrix); see `released_matrices` for arrays.
        step_masking: in the same form, the cleaned masking graph. Nobody released one.
        summary: aggregates of `step_importance`.
    """

    problem: Record | None = None
    base_solution: Record | None = None
    chunks: Record | None = None
    rollouts: Mapping[int, list[Record]] | None = None
    labeled: list[Record] | None = None
    resampled: Mapping[int, list[str]] | None = None
    step_importance: list[Record] | None = None
    step_suppression: list[Record] | None = None
    step_masking: list[Record] | None = None
    summary: Record | None = None


# Field, file, indentation of the file (the suppression file is written on one line).
_FILES = (
    ("problem", "problem.json", 2),
    ("base_solution", "base_solution.json", 2),
    ("chunks", "chunks.json", 2),
    ("labeled", "chunks_labeled.json", 2),
    ("resampled", "chunks_resampled.json", 2),
    ("step_importance", "step_importance.json", 2),
    ("step_suppression", "step_importance_supp.json", None),
    ("step_masking", "step_importance_masking.json", None),
    ("summary", "summary.json", 2),
)


def reference_prompt(question: str) -> str:
    """The raw-completion prompt of the released traces, byte for byte."""
    return (
        "Solve this math problem step by step. You MUST put your final answer in \\boxed{}. "
        f"Problem: {question} Solution: \n<think>\n"
    )


def read_trace(folder: str | Path) -> ReleasedTrace:
    """Reads and checks every file of a trace that is there.

    Raises:
        UserError: the folder has none of the files, or one of them is not valid JSON, lacks a
            field, has one of a wrong type, or names sentences that do not follow its order.
    """
    folder = Path(folder)
    found: dict[str, Any] = {}
    for name, file, _ in _FILES:
        path = folder / file
        if path.is_file():
            found[name] = _checked(name, _load(path), path)
    rollouts = {}
    for path in folder.glob("chunk_*/solutions.json"):
        match = _FOLDER.fullmatch(path.parent.name)
        if match:
            rollouts[int(match.group(1))] = _checked("rollouts", _load(path), path)
    if rollouts:
        found["rollouts"] = dict(sorted(rollouts.items()))
    if not found:
        raise UserError(
            found=f"no trace files in {folder}",
            expected="a folder with base_solution.json, chunks_labeled.json or their like",
            do="name the folder of one problem",
        )
    return ReleasedTrace(**found)


def write_trace(folder: str | Path, trace: ReleasedTrace) -> list[Path]:
    """Writes every part of a trace that is not None; each file appears whole or not at all.

    Sentence records are written in the order of `SENTENCE_KEYS`, other fields after them.

    Returns:
        The files written.

    Raises:
        UserError: a part would not be readable again (missing field, wrong type, NaN).
    """
    folder = Path(folder)
    written = []
    for name, file, indent in _FILES:
        content = getattr(trace, name)
        if content is None:
            continue
        if name == "labeled":
            content = [_ordered(record) for record in content]
        if name == "resampled":
            # The released files sort indices as text: 0, 1, 10, 100, 101.
            content = {key: content[int(key)] for key in sorted(map(str, content))}
        _checked(name, content, folder / file)
        written.append(_save(folder / file, content, indent))
    for index, records in (trace.rollouts or {}).items():
        path = folder / f"chunk_{index}" / "solutions.json"
        _checked("rollouts", records, path)
        written.append(_save(path, records, 2))
    return written


def _ordered(record: Record) -> Record:
    known = {key: record[key] for key in SENTENCE_KEYS if key in record}
    return known | {key: value for key, value in record.items() if key not in known}


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except ValueError as error:  # bad JSON, bad UTF-8, NaN
        raise UserError(
            found=f"{path}, which is not valid JSON ({error})",
            expected="a complete JSON file",
            do="fetch or write the file again",
        ) from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _save(path: Path, content: Any, indent: int | None) -> Path:
    try:
        text = json.dumps(content, indent=indent, allow_nan=False)
    except ValueError as error:
        raise _malformed(path, f"a value that JSON cannot hold ({error})", "finite numbers") from (
            error
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)
    return path


def _malformed(where: Path | str, found: str, expected: str) -> UserError:
    return UserError(
        found=f"{found} in {where}", expected=expected, do="repair the file or make it again"
    )


def _fields(record: Any, schema: Mapping[str, Any], where: str) -> None:
    if not isinstance(record, dict):
        raise _malformed(where, f"a {type(record).__name__}", "an object")
    for key, kind in schema.items():
        if key not in record:
            raise _malformed(where, f"no field {key!r}", "the fields " + ", ".join(schema))
        value = record[key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(each.__name__ for each in kinds)
            raise _malformed(where, f"{key!r} of type {type(value).__name__}", names)


def _strings(values: list, where: str) -> None:
    if not all(isinstance(value, str) for value in values):
        raise _malformed(where, "an entry that is not text", "a list of texts")


def _checked(name: str, content: Any, path: Path) -> Any:
    single = {
        "problem": _PROBLEM,
        "base_solution": _BASE,
        "chunks": _CHUNKS,
        "summary": _SUMMARY,
    }
    where = str(path)
    if name in single:
        _fields(content, single[name], where)
        if name == "chunks":
            _strings(content["chunks"], where)
        return content
    if name == "resampled":
        return _checked_resampled(content, where)
    if not isinstance(content, list):
        raise _malformed(where, f"a {type(content).__name__}", "a list of records")
    for place, record in enumerate(content):
        entry = f"record {place} of {where}"
        if name == "labeled":
            _fields(record, _SENTENCE, entry)
            _strings(record["function_tags"], entry)
            _strings(record["depends_on"], entry)
            if not all(text.isdecimal() for text in record["depends_on"]):
                raise _malformed(entry, "a dependency that is no index", "indices as text")
        elif name == "rollouts":
            failed = isinstance(record, dict) and "error" in record
            _fields(record, {"error": str} if failed else _ROLLOUT, entry)
        else:
            _fields(record, _SOURCE, entry)
            for target in record["target_impacts"]:
                _fields(target, _TARGET, entry)
    keys = {"labeled": "chunk_idx", "rollouts": None}
    key = keys.get(name, "source_chunk_idx")
    numbers = [record[key] for record in content] if key else []
    if any(later <= earlier for earlier, later in zip(numbers, numbers[1:], strict=False)):
        raise _malformed(where, f"{key} out of order", "each sentence once, in order")
    return content


def _checked_resampled(content: Any, where: str) -> dict[int, list[str]]:
    if not isinstance(content, dict):
        raise _malformed(where, f"a {type(content).__name__}", "an object by sentence index")
    for key, texts in content.items():
        if not key.isdecimal() or not isinstance(texts, list):
            raise _malformed(where, f"the entry {key!r}", "lists of texts by sentence index")
        _strings(texts, where)
    return {int(key): content[key] for key in sorted(content, key=int)}
