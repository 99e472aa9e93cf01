"""`build_site`: every trace under some folders in one static site, which opens from disk.

`index.html` is the page; each trace is a file in `data/` that the page loads when the trace is
chosen. A page opened from disk may not fetch, so a data file is a script that hands its data to
the page: `report.register(id, data)`. Texts in it are JSON strings, and the page puts them on the
screen as text only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp_jax.report.embed import embed_json
from interp_jax.report.page import asset, base_scripts, base_styles, build_page, write_page
from interp_jax.report.place import require_place
from interp_jax.runtime.atomic import atomic_write_text, disk_full_told
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.released import read_trace
from interp_jax.studies.thought_anchors.visualiser.data import trace_payload
from interp_jax.studies.thought_anchors.visualiser.finding import describe, find_traces

_PAGE = "interp_jax.studies.thought_anchors.visualiser.page"
_REPORT_PAGE = "interp_jax.studies.thought_anchors.page"
# In the order they run. The heat map is the report's own.
_SCRIPTS = (
    (_PAGE, "state.js"),
    (_PAGE, "measures.js"),
    (_PAGE, "links.js"),
    (_PAGE, "picker.js"),
    (_PAGE, "text.js"),
    (_PAGE, "circle.js"),
    (_PAGE, "tree.js"),
    (_REPORT_PAGE, "matrix.js"),
    (_PAGE, "detail.js"),
    (_PAGE, "keys.js"),
    (_PAGE, "site.js"),
)
_MARK = 'id="thought-anchors-site"'
_DATA_FILE = re.compile(r"[a-z0-9._-]+\.[0-9a-f]{12}\.js")


@dataclass(frozen=True)
class SiteConfig:
    """What `scripts/thought_anchors_site.py` is told."""

    traces: tuple[str, ...] = field(
        metadata={
            "help": "Folders to look for traces in: of runs (their trace/ is found), of released "
            "traces, or trees of them."
        }
    )
    out: str = field(metadata={"help": "Folder for the site; made when missing."})


def build_site(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Writes the site of all traces under `folders` to `out` and returns its `index.html`.

    Data files are named by their content and come first, the page comes last by atomic rename:
    at every moment the page that is there finds its data whole. Data files that the new page
    does not use are then removed.

    Args:
        folders: of traces, in any nesting; see `finding.find_traces`.
        out: made when missing. An older site there is replaced.

    Raises:
        UserError: no trace was found, a file of one is broken, `out` holds another page, or the
            disk is full. What was in `out` is then as it was.
    """
    out = Path(out)
    require_place(out, _MARK, "such a site")
    data = out / "data"
    before = {path.name for path in data.iterdir()} if data.is_dir() else set()
    entries: list[dict[str, Any]] = []
    try:
        for folder in find_traces(folders):
            trace = read_trace(folder)
            try:
                payload = trace_payload(trace)
            except UserError as error:
                found = f"{error.found} ({folder})"
                raise UserError(found=found, expected=error.expected, do=error.do) from error
            entry = describe(folder, trace)
            entry_id = _unused_id(entry, {other["id"] for other in entries})
            text = f"report.register({embed_json(entry_id)},{embed_json(payload)});\n"
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            name = f"{entry_id}.{digest}.js"
            with disk_full_told(data):
                data.mkdir(parents=True, exist_ok=True)
            atomic_write_text(data / name, text)
            entries.append(
                {"id": entry_id, **entry, "count": len(payload["sentences"]), "file": name}
            )
        with disk_full_told(out):
            index = write_page(out / "index.html", _page(entries))
    except BaseException:
        _remove(data, {entry["file"] for entry in entries} - before)
        raise
    _remove(data, before - {entry["file"] for entry in entries})
    return index


def _page(entries: list[dict[str, Any]]) -> str:
    return build_page(
        title="Thought anchors",
        body=asset(_PAGE, "site.html"),
        styles=(*base_styles(), asset(_PAGE, "site.css"), asset(_PAGE, "views.css")),
        scripts=(*base_scripts(), *(asset(package, name) for package, name in _SCRIPTS)),
        data={"traces": entries},
        script_files=True,
    )


def _unused_id(entry: dict[str, str], used: set[str]) -> str:
    words = [entry[name] for name in ("model", "outcome", "problem")]
    stem = "--".join(re.sub(r"[^a-z0-9._]+", "-", word.lower()).strip("-.") for word in words)
    stem, number = stem[:120], 1
    unused = stem
    while unused in used:
        number += 1
        unused = f"{stem}--{number}"
    return unused


def _remove(data: Path, names: set[str]) -> None:
    """Removes data files of ours, and the folder once it is empty; others are let alone."""
    for name in names:
        if _DATA_FILE.fullmatch(name):
            (data / name).unlink(missing_ok=True)
    if data.is_dir() and not any(data.iterdir()):
        data.rmdir()
