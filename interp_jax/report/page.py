"""One self-contained HTML file from a title, a body, styles, scripts and data.

The page loads nothing: styles and scripts are inline, and its content security
policy lets only those run, named by their SHA-256, so that text from data could
not become code even if a script made markup of it. Scripts find their data as
`JSON.parse(document.getElementById("data").textContent)`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp_jax.report.embed import embed_json
from interp_jax.runtime.atomic import atomic_write_text

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
{styles}
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
{scripts}
</body>
</html>
"""


def asset(package: str, name: str) -> str:
    """Returns the text of a file carried in `package`, for example `"report.css"`."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def base_styles() -> tuple[str, ...]:
    """Returns the style sheets that every report starts with: colours and typography."""
    return (asset("interp_jax.report.assets", "base.css"),)


def base_scripts() -> tuple[str, ...]:
    """Returns the scripts that every report starts with: elements and number formats."""
    return (asset("interp_jax.report.assets", "dom.js"),)


def build_page(
    title: str, body: str, styles: Sequence[str], scripts: Sequence[str], data: Any, *,
    script_files: bool = False,
) -> str:
    """Returns the text of the page.

    Args:
        title: the document's title; escaped here.
        body: trusted markup, written by us; text from data does not belong in it.
        styles: style sheets, in order.
        scripts: scripts, in order; each runs after the body and the data exist.
        data: what the scripts show; see `embed.plain` for the types.
        script_files: whether script files beside the page may run too, opened from disk or
            from a server.

    Raises:
        UserError: data without a JSON counterpart.
        ValueError: a style, script or body that would end its own element.
    """
    for kind, texts in (("style", styles), ("script", scripts)):
        for text in texts:
            if re.search(rf"</{kind}|<!--", text, flags=re.IGNORECASE):
                raise ValueError(f"a {kind} holds `</{kind}` or `<!--` and would end its element")
    if re.search(r"<script|<style", body, flags=re.IGNORECASE):
        raise ValueError("the body holds a script or a style; pass it in `scripts` or `styles`")
    files = "'self' file: " if script_files else ""
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_sources(styles)}; script-src {files}{_sources(scripts)}"
    )
    return _PAGE.format(
        policy=html.escape(policy, quote=True),
        title=html.escape(title.encode("utf-8", "replace").decode("utf-8")),
        styles="\n".join(f"<style>{text}</style>" for text in styles),
        body=body,
        data=embed_json(data),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
    )


def write_page(path: str | os.PathLike[str], page: str) -> Path:
    """Writes `page` to `path` by atomic rename, so that no half page is ever seen.

    Missing parent directories are made. Returns the path.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(target, page)
    return target


def _sources(texts: Sequence[str]) -> str:
    if not texts:
        return "'none'"
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)
