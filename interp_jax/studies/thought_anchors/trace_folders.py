"""Finding the folders of traces in the released layout under given ones."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from interp_jax.runtime.errors import UserError

_ROLLOUTS = re.compile(r"chunk_\d+")


def trace_folders(
    roots: Sequence[str | os.PathLike[str]], holding: Sequence[str]
) -> list[Path]:
    """Folders under `roots` with one of the files `holding`, each once, in order of their paths.

    A root may be a trace itself, a run's folder (its trace is in `trace/`), or any tree of them.
    Folders of rollouts (`chunk_<i>`) are not entered, since there are thousands of them;
    forced-answer rollouts (`..._forced_answer`) are no traces of their own; links to folders are
    not followed.

    Raises:
        UserError: a root does not exist, or none of them holds a trace.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, roots):
        if not given.is_dir():
            raise UserError(
                found=f"no folder at {given}", expected="a folder with traces", do="check the path"
            )
        for root, below, files in os.walk(given):
            below[:] = sorted(
                name
                for name in below
                if not _ROLLOUTS.fullmatch(name) and not name.endswith("_forced_answer")
            )
            if any(name in files for name in holding):
                found.setdefault(Path(root).resolve(), Path(root))
    if not found:
        raise UserError(
            found="no traces in " + (", ".join(map(str, roots)) or "no folders at all"),
            expected="folders with one of " + ", ".join(holding) + " in them or below",
            do="name the folder of a run or of released traces",
        )
    return [found[path] for path in sorted(found)]
