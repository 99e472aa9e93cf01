"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os

import pytest

from interp_jax.runtime import atomic
from interp_jax.runtime.errors import UserError

pytestmark = pytest.mark.core


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_and_overwrite(tmp_path):
    path = tmp_path / "a.json"
    atomic.atomic_write_json(path, {"a": [1, None, "é"]})
    atomic.atomic_write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["a.json"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    atomic.atomic_write_text(path, "old")
    monkeypatch.setattr(atomic.os, step, full)
    with pytest.raises(UserError, match="no space left on the disk while writing .*a.txt"):
        atomic.atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.atomic_write_text(tmp_path / "missing" / "a.txt", "x")


@pytest.mark.parametrize("bad", [float("nan"), {"a": float("inf")}, "\ud800"])
def test_what_json_cannot_hold_is_refused(tmp_path, bad):
    with pytest.raises(UserError, match="JSON cannot hold"):
        atomic.atomic_write_json(tmp_path / "a.json", bad)
    assert not os.listdir(tmp_path)
