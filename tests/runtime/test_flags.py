"""Flags are the config's fields; bad input leaves with one sentence and a code."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Literal

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass

pytestmark = pytest.mark.core


def field(default, **metadata):
    return dataclasses.field(default=default, metadata={"help": "Some help.", **metadata})


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str
    seed: int = 0
    temperature: float = field(0.6, minimum=0.0, maximum=2.0)
    smoke: bool = False
    problem: str | None = field(None)
    limit: int | None = field(None, minimum=1)
    layers: tuple[int, ...] = field((1, 2), minimum=0)
    sites: tuple[str, ...] = field(())
    dtype: Literal["float32", "bfloat16"] = "float32"
    exact: bool | None = field(None)
    size: int = field(4, choices=(4, 8))


def parse(*arguments, cls=Config):
    values = flags.FlagValues()
    define_from_dataclass(cls, values)
    assert values(["script", *arguments]) == ["script"]
    return read_into_dataclass(cls, values)


def test_defaults_are_the_config_s():
    assert parse("--workdir=x") == Config(workdir="x")


def test_every_kind_of_field():
    assert parse(
        "--workdir=x",
        "--seed=3",
        "--temperature=1",
        "--smoke",
        "--problem=p",
        "--limit=5",
        "--layers=0, 7",
        "--sites=a,b",
        "--dtype=bfloat16",
        "--exact=true",
        "--size=8",
    ) == Config("x", 3, 1.0, True, "p", 5, (0, 7), ("a", "b"), "bfloat16", True, 8)
    assert parse("--workdir=x", "--limit=none", "--layers=", "--nosmoke") == Config(
        "x", limit=None, layers=()
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(),
    temperature=st.floats(0, 2),
    layers=st.lists(st.integers(0), max_size=3),
    problem=st.none() | st.text().filter(lambda text: text.lower() != "none"),
)
def test_a_config_written_as_flags_comes_back(seed, temperature, layers, problem):
    config = Config("x", seed, temperature, layers=tuple(layers), problem=problem)
    arguments = ["--workdir=x", f"--seed={seed}", f"--temperature={temperature!r}"]
    arguments += [f"--layers={','.join(map(str, layers))}"]
    arguments += [f"--problem={'none' if problem is None else problem}"]
    assert parse(*arguments) == config


@pytest.mark.parametrize(
    "argument",
    [
        "--seed=1.5",
        "--seed=x",
        "--temperature=nan",
        "--temperature=inf",
        "--temperature=2.1",
        "--limit=0",
        "--layers=1,-1",
        "--layers=1,,2",
        "--dtype=float16",
        "--exact=maybe",
        "--size=5",
        "--seed=none",
        "--unknown=1",
        "--smoke=perhaps",
    ],
)
def test_bad_values_are_refused(argument):
    with pytest.raises(flags.Error):
        parse("--workdir=x", argument)


def test_a_required_field_is_asked_for():
    with pytest.raises(flags.Error, match="workdir"):
        parse()


def test_help_says_bounds_choices_and_the_common_text():
    values = flags.FlagValues()
    define_from_dataclass(Config, values)
    text = " ".join(values.get_help().split())
    for part in (
        "Root of all random draws.",
        "a number from 0.0 to 2.0",
        "one of float32, bfloat16",
        "an integer, at least 1, or none",
        "comma-separated",
        "Run the same command again",
    ):
        assert part in text


@dataclasses.dataclass(frozen=True)
class Unhelpful:
    strange: int = 0


@dataclasses.dataclass(frozen=True)
class Odd:
    table: dict = dataclasses.field(default_factory=dict, metadata={"help": "x"})


@pytest.mark.parametrize("cls", [Unhelpful, Odd])
def test_a_field_that_no_flag_can_hold_or_explain_is_our_fault(cls):
    with pytest.raises(TypeError):
        parse(cls=cls)


SCRIPT = '''
"""Does one thing.

It has a second paragraph.
"""
import dataclasses, errno
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main

@dataclasses.dataclass(frozen=True)
class Config:
    what: str = dataclasses.field(default="work", metadata={"help": "What happens."})
    seed: int = 0

define_from_dataclass(Config)

def main():
    config = read_into_dataclass(Config)
    if config.what == "user":
        raise UserError(found="a cat", expected="a dog", do="bark")
    if config.what == "interrupt":
        raise KeyboardInterrupt
    if config.what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "big.bin")
    if config.what == "fault":
        raise RuntimeError("ours")
    print("done", config.seed)

if __name__ == "__main__":
    run_main(main)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(path), *arguments], capture_output=True, text=True
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "stderr"),
    [
        (["--seed=3"], 0, ""),
        (["--what=user"], 2, "Found a cat; expected a dog; bark.\n"),
        (
            ["stray"],
            2,
            "Found the argument 'stray'; expected flags only; write --flag=value; "
            "--help lists the flags.\n",
        ),
        (
            ["--what=interrupt"],
            1,
            "Interrupted; nothing finished is lost: run the same command again to go on.\n",
        ),
        (
            ["--what=full"],
            1,
            "No space left on the disk while writing big.bin; make room and run "
            "the same command again.\n",
        ),
    ],
)
def test_how_a_script_ends(script, arguments, code, stderr):
    done = script(*arguments)
    assert (done.returncode, done.stderr) == (code, stderr)
    assert done.stdout == ("done 3\n" if code == 0 else "")


def test_our_faults_keep_their_traceback(script):
    done = script("--what=fault")
    assert done.returncode == 1 and "RuntimeError: ours" in done.stderr


def test_help_shows_the_script_s_own_flags(script):
    done = script("--help")
    assert "Does one thing." in done.stdout and "What happens." in done.stdout
    assert "--seed" in done.stdout and "Root of all random draws." in done.stdout
    unknown = script("--sed=3")
    assert unknown.returncode == 1 and "seed" in unknown.stderr
