"""The thought-anchors report: one HTML page that opens without a network.

`write_report(path, data)` checks the data (`report_data`), adds the findings in
words (`report_findings`) and writes the page. Its scripts, in `page/`, put every
text from data into the page as text, never as markup.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_jax.report.page import asset, base_scripts, base_styles, build_page, write_page
from interp_jax.studies.thought_anchors.report_data import check
from interp_jax.studies.thought_anchors.report_findings import findings, headline

_PAGE = "interp_jax.studies.thought_anchors.page"
# In the order they run: state and methods first, then one script per part of the page.
_SCRIPTS = (
    "state.js",
    "methods.js",
    "trace.js",
    "bars.js",
    "answers.js",
    "matrix.js",
    "panel.js",
    "edges.js",
    "ablation.js",
    "facts.js",
    "report.js",
)


def write_report(path: str | os.PathLike[str], data: Mapping[str, Any]) -> Path:
    """Writes the report of one run to `path` by atomic rename and returns the path.

    Args:
        path: the HTML file; missing parent directories are made.
        data: the run's results, laid out as `report_data` says.

    Raises:
        UserError: the data does not have that layout; nothing is written.
    """
    return write_page(path, build_report(data))


def build_report(data: Mapping[str, Any]) -> str:
    """Returns the text of the report page; see `write_report`."""
    report = check(data)
    found = findings(report)
    report["headline"] = headline(found)
    report["findings"] = [dataclasses.asdict(finding) for finding in found]
    report["trace"]["pieces"] = _pieces(report["trace"])
    return build_page(
        title=report["title"],
        body=asset(_PAGE, "report.html"),
        styles=(*base_styles(), asset(_PAGE, "report.css")),
        scripts=(*base_scripts(), *(asset(_PAGE, name) for name in _SCRIPTS)),
        data=report,
    )


def _pieces(trace: dict[str, Any]) -> list[list[Any]]:
    """Cuts the text into `[text, sentence index or None]`, in order.

    It is done here because Python counts characters and JavaScript UTF-16 units.
    """
    text, pieces, end = trace["text"], [], 0
    for index, sentence in enumerate(trace["sentences"]):
        pieces.append([text[end : sentence["start"]], None])
        pieces.append([text[sentence["start"] : sentence["end"]], index])
        end = sentence["end"]
    pieces.append([text[end:], None])
    return [piece for piece in pieces if piece[0] or piece[1] is not None]
