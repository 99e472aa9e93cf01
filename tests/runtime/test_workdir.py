"""The workdir: same config goes on, another is refused with the difference."""

from __future__ import annotations

import dataclasses
import errno
import json
import os

import pytest

from interp_jax.runtime import atomic, process, workdir
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.workdir import Workdir

pytestmark = pytest.mark.core


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = "runs/x"
    seed: int = 0
    layers: tuple[int, ...] = (1, 2)
    problem: str | None = None
    log_every: int = dataclasses.field(default=10, metadata={"affects_results": False})


def test_the_same_config_goes_on(tmp_path):
    first = Workdir(tmp_path / "a" / "b", Config())
    assert not first.resumed
    written = json.loads((first / "config.json").read_text())
    assert written == {
        "workdir": "runs/x",
        "seed": 0,
        "layers": [1, 2],
        "problem": None,
        "log_every": 10,
    }
    # Where and how fast may change.
    again = Workdir(tmp_path / "a" / "b", Config(workdir="elsewhere", log_every=5))
    assert again.resumed
    assert json.loads((first / "config.json").read_text()) == written


def test_another_config_is_refused_with_the_differences(tmp_path):
    Workdir(tmp_path, Config())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError) as caught:
        Workdir(tmp_path, Config(seed=1, layers=(1, 3), log_every=3))
    message = str(caught.value)
    assert "layers: [1, 2] there, [1, 3] now; seed: 0 there, 1 now" in message
    assert "log_every" not in message and "problem" not in message
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_field_more_or_less_is_a_difference(tmp_path):
    Workdir(tmp_path, {"seed": 0, "old": 1})
    with pytest.raises(UserError, match="new: absent there, 2 now; old: 1 there, absent now"):
        Workdir(tmp_path, {"seed": 0, "new": 2})


def test_a_torn_config_or_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file at"):
        Workdir(tmp_path / "file", Config())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        Workdir(tmp_path, Config())


def test_a_config_that_json_cannot_hold_is_refused_by_field(tmp_path):
    with pytest.raises(UserError, match="config field seed"):
        Workdir(tmp_path, {"seed": float("nan")})
    with pytest.raises(UserError, match="config field what"):
        Workdir(tmp_path, {"what": object()})


def test_files_and_journals_live_in_it(tmp_path):
    place = Workdir(tmp_path, Config())
    place.write_text("deep/report.html", "<p>")
    place.write_json("a.json", [1])
    assert (tmp_path / "deep" / "report.html").read_text() == "<p>"
    assert json.loads((place / "a.json").read_text()) == [1]
    with place.journal("rollouts.jsonl") as journal:
        journal.append("0", 1)
    with Workdir(tmp_path, Config()).journal("rollouts.jsonl") as journal:
        assert journal.done == {"0"}


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", fsync)
        with pytest.raises(UserError, match="no space left"):
            Workdir(tmp_path / "run", Config())
    assert os.listdir(tmp_path / "run") == []
    assert not Workdir(tmp_path / "run", Config()).resumed


def test_only_process_0_writes(tmp_path, monkeypatch):
    assert process.is_writer()
    monkeypatch.setattr(workdir, "is_writer", lambda: False)
    place = Workdir(tmp_path / "run", Config())
    place.write_text("a.txt", "x")
    assert not (tmp_path / "run").exists()
