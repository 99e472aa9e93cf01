"""`python scripts/diff_models.py`: help and bad input."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from interp_jax.studies.model_diffing.config import ModelDiffingConfig

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "diff_models.py"


def command(*flags, timeout=240):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "XLA_FLAGS": ""},
    )


def test_help_names_every_flag_and_shows_examples():
    done = command("--help")
    assert "Examples:" in done.stdout and "report.html" in done.stdout
    for name in ModelDiffingConfig.__dataclass_fields__:
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout


def test_bad_input_has_exit_code_2_and_one_sentence(tmp_path):
    done = command(f"--workdir={tmp_path}/run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--dictionary and --other_model" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()
