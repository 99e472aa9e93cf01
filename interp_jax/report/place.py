"""Where a site may be written: never over something else."""

from __future__ import annotations

from pathlib import Path

from interp_jax.runtime.errors import UserError


def require_place(out: Path, mark: str, what: str) -> None:
    """Raises UserError where a file, or another page, stands in a site's way.

    Args:
        out: folder of the site.
        mark: text that the site's own index.html holds.
        what: the site, for the message: "such a site".
    """
    index = out / "index.html"
    if out.exists() and not out.is_dir():
        found = f"a file at {out}"
    elif index.exists() and mark not in index.read_text(encoding="utf-8", errors="replace"):
        found = f"another page at {index}"
    else:
        return
    raise UserError(
        found=found, expected=f"an empty folder, or one with {what}", do="choose another folder"
    )
