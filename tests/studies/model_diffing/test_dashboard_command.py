"""`python scripts/dashboard.py`: help and bad input."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig

ROOT = pathlib.Path(__file__).resolve().parents[3]


def command(*flags):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "dashboard.py"), *flags], capture_output=True,
        text=True, timeout=240, env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip


def test_help_names_every_flag_and_shows_examples():
    done = command("--help")
    assert "Examples:" in done.stdout and "index.html" in done.stdout
    for name in DashboardConfig.__dataclass_fields__:
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout


def test_bad_input_has_exit_code_2_and_one_sentence(tmp_path):
    done = command(f"--workdir={tmp_path}/run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Found no dictionary; expected --dict")
    assert not (tmp_path / "run").exists()
