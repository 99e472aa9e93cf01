"""The page of an aggregate: one HTML file with its figures, which opens without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_jax.report.page import asset, base_scripts, base_styles, build_page, write_page
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME

_PAGE = "interp_jax.studies.thought_anchors.aggregates.page"
_SCRIPTS = ("charts.js", "sections.js", "aggregate.js")


def write_aggregate_page(path: str | os.PathLike[str], data: Mapping[str, Any]) -> Path:
    """Writes the page of plain aggregate data by atomic rename and returns its path."""
    return write_page(path, build_aggregate_page(data))


def build_aggregate_page(data: Mapping[str, Any]) -> str:
    """The text of the page; its scripts put every text from data into it as text."""
    shown = dict(data) | {
        "tags": {name: {"short": tag.short, "colour": tag.colour} for name, tag in BY_NAME.items()}
    }
    return build_page(
        title="Thought anchors over traces",
        body=asset(_PAGE, "aggregate.html"),
        styles=(*base_styles(), asset(_PAGE, "aggregate.css")),
        scripts=(*base_scripts(), *(asset(_PAGE, name) for name in _SCRIPTS)),
        data=shown,
    )
