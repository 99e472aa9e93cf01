"""`python scripts/thought_anchors.py`: help, bad input, and a whole run in its own process."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "thought_anchors.py"
SMALL = ("--model=glassllm-en", "--prompt=Alice said to the Queen,", "--instruction={question}",
         "--opening=")  # fmt: skip


def command(*flags, timeout=240):
    environment = {**os.environ, "XLA_FLAGS": ""}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "compiled_command")
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, timeout=timeout,
        env=environment,
    )


def test_help_names_every_flag_and_shows_examples():
    done = command("--help")
    assert "Examples:" in done.stdout and "report.html" in done.stdout
    for name in ThoughtAnchorsConfig.__dataclass_fields__:
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout


def test_a_smoke_run_from_end_to_end(tmp_path):
    done = command(f"--workdir={tmp_path}", "--smoke", *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "report.html").exists()
    for said in ("tokens/s", "Unfinished:", "without an answer", f"Open {tmp_path}/report.html",
                 "versions", "compiled"):  # fmt: skip
        assert said in done.stdout
    # One part alone, by another process, on what the run left.
    alone = command(f"--workdir={tmp_path}", "--smoke", "--stage=report", *SMALL)
    assert alone.returncode == 0, alone.stderr[-2000:]
    assert "all were there from an earlier run" in alone.stdout
    # Another config there is bad input, told in one sentence.
    other = command(f"--workdir={tmp_path}", "--smoke", "--seed=5", *SMALL)
    assert other.returncode == 2
    assert "seed: 0 there, 5 now" in last_line(other)


def last_line(done):
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--problems={tmp}/absent.jsonl",), "absent.jsonl"),
        (("--problems={tmp}/empty_line.jsonl",), "nothing on line 2"),
        (("--prompt=a", "--stage=forced"), "--forced_rollouts=0"),
        (("--released={tmp}", "--stage=base"), "not continued"),
        (("--released={tmp}/absent",), "no trace files in"),
        (("--prompt=a", "--problem=reasoning_gym:gcd:0:0"), "one source of problems"),
    ],
)
def test_bad_input_has_exit_code_2_and_one_sentence(tmp_path, flags, said):
    (tmp_path / "empty_line.jsonl").write_text(
        '{"question": "1+1?", "answer": 2}\n\n{"question": "1+2?", "answer": 3}\n'
    )
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    done = command(f"--workdir={tmp_path}/run", "--model=glassllm-en", *flags)
    assert done.returncode == 2
    assert said in last_line(done) and last_line(done).startswith("Found ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_prompt_longer_than_the_context_has_exit_code_2(tmp_path):
    done = command(f"--workdir={tmp_path}", "--smoke", *SMALL, "--prompt=" + "Alice went on. " * 60)
    assert done.returncode == 2 and "context" in last_line(done)
    assert "Traceback" not in done.stderr


def test_plan_only_compiles_and_writes_nothing(tmp_path):
    done = command(
        f"--workdir={tmp_path}/run", "--smoke", "--plan_only", "--max_new_tokens=30", *SMALL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rollouts: arguments" in done.stdout and "suppression: arguments" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_default_model_in_a_smoke_run(tmp_path):
    done = command(f"--workdir={tmp_path}", "--smoke", "--max_new_tokens=32")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "report.html").exists() and "Base trace:" in done.stdout
