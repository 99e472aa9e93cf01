"""Where the traces of a folder are, and which model, outcome and problem each is of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from interp_jax.studies.thought_anchors.released import ReleasedTrace
from interp_jax.studies.thought_anchors.trace_folders import trace_folders
from interp_jax.studies.thought_anchors.visualiser.data import is_graded

# A folder with one of these holds the sentences of a trace.
_SENTENCES = (
    "chunks.json",
    "chunks_labeled.json",
    "step_importance.json",
    "step_importance_supp.json",
    "step_importance_masking.json",
)
_OUTCOME = re.compile(r"(correct|incorrect)_base_solution")
_SAMPLING = re.compile(r"temperature_.*")


def find_traces(folders: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Folders that hold the sentences of a trace; see `trace_folders` for what it raises."""
    return trace_folders(folders, _SENTENCES)


def describe(folder: Path, trace: ReleasedTrace) -> dict[str, str]:
    """What a trace is of, as text: `model`, `outcome`, `problem` and `title`.

    In the released tree the path says it (`MODEL/.../OUTCOME_base_solution/problem_ID`); of a
    run's folder its `config.json` names the model. `outcome` is "correct", "incorrect" or
    "unknown" (no right answer was given).
    """
    parts = folder.resolve().parts
    outcome, model = "unknown", None
    for place, part in enumerate(parts):
        match = _OUTCOME.fullmatch(part)
        if match:
            above = [name for name in parts[1:place] if not _SAMPLING.fullmatch(name)]
            outcome, model = match.group(1), (above or [None])[-1]
    if outcome == "unknown" and is_graded(trace):
        outcome = "correct" if trace.base_solution["is_correct"] else "incorrect"
    problem = parts[-1].removeprefix("problem_")
    if parts[-1] == "trace" and len(parts) > 2:
        problem = parts[-2]
        model = model or _configured_model(folder.resolve().parent / "config.json")
    title = (trace.problem or {}).get("nickname")
    return {
        "model": model or "unknown model",
        "outcome": outcome,
        "problem": problem,
        "title": title if isinstance(title, str) else "",
    }


def _configured_model(path: Path) -> str | None:
    """The model's own name, without the folder it lay in."""
    try:
        model = json.loads(path.read_bytes())["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a run's config; the site then says that the model is unknown
    return Path(model).name if isinstance(model, str) and model else None
