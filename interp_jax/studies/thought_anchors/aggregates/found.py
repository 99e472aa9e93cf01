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

from interp_jax.runtime.errors import UserError

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
    """Every labelled trace under the roots, each once, sorted by folder.

    Folders of rollouts (`chunk_<i>`) are not entered: there are thousands of them.

    Raises:
        UserError: a root is no folder, or there is no labelled trace under any of them.
    """
    folders: set[Path] = set()
    for root in map(Path, roots):
        if not root.is_dir():
            raise UserError(
                found=f"no folder at {root}",
                expected="a folder with traces in it",
                do="name folders that exist",
            )
        for place, below, files in os.walk(root):
            below[:] = [name for name in below if not name.startswith("chunk_")]
            if LABELED in files:
                folders.add(Path(place).resolve())
    if not folders:
        raise UserError(
            found="no traces in " + (", ".join(map(str, roots)) or "no folders at all"),
            expected=f"folders with a {LABELED} somewhere below",
            do="name the folder of a released model, of a problem, or the workdir of a run",
        )
    return [_described(folder) for folder in sorted(folders)]


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
