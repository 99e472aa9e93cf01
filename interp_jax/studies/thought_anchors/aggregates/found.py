"""Finding the traces under given folders, and naming them.

A trace is any folder with a `chunks_labeled.json`. Its name says where it lies; model and kind
are read from the released layout (`<model>/<sampling>/<kind>_base_solution/problem_<id>`) or,
for a workdir of ours, from the `provenance.json` beside its `trace/`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp_jax.studies.thought_anchors.trace_folders import trace_folders

LABELED = "chunks_labeled.json"
_KINDS = ("correct_base_solution", "incorrect_base_solution")


@dataclass(frozen=True)
class FoundTrace:
    """Where one trace lies and what its place says about it.

    Attributes:
        folder: the folder with the files.
        model: name of the model, `unknown` where nothing says it.
        kind: `correct`, `incorrect`, or None where the place does not say it.
        problem: name of the problem: that of the folder, or of the workdir.
    """

    folder: Path
    model: str
    kind: str | None
    problem: str

    @property
    def name(self) -> str:
        """`model / kind / problem`, for tables."""
        return " / ".join(part for part in (self.model, self.kind, self.problem) if part)


def find_traces(roots: Sequence[str | Path]) -> list[FoundTrace]:
    """Every labelled trace under the roots; see `trace_folders` for what it raises."""
    folders = trace_folders(roots, (LABELED,))
    return [_described(folder.resolve()) for folder in folders]


def _described(folder: Path) -> FoundTrace:
    parts = folder.parts
    for place in range(len(parts) - 1, 0, -1):
        if parts[place] in _KINDS:
            above = [part for part in parts[:place] if not part.startswith("temperature_")]
            kind = parts[place].removesuffix("_base_solution")
            problem = "/".join(parts[place + 1 :]) or folder.name
            return FoundTrace(folder, above[-1].strip(os.sep) or "unknown", kind, problem)
    workdir = folder.parent
    named = workdir.name if folder.name == "trace" else folder.name
    return FoundTrace(folder, _model_of(workdir / "provenance.json"), None, named)


def _model_of(path: Path) -> str:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    return model if isinstance(model, str) else "unknown"
