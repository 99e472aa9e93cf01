"""The reference page names everything public, with its signature and docstring."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import interp_jax

ROOT = pathlib.Path(__file__).parent.parent


def test_the_page_has_every_public_name(tmp_path):
    out = tmp_path / "docs" / "reference.md"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py"), f"--out={out}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    for name in interp_jax.PUBLIC:
        assert f"### `{name}`" in page
    assert "class UserError(" in page and "Bad input, told in one sentence." in page
    assert "## `interp_jax.runtime`" in page
    assert "`interp_jax.runtime.journal`" in page and "`Journal`" in page
    assert page.count("```") % 2 == 0
