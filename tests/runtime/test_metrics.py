"""Metrics arrive as JSON lines, and as TensorBoard files if wished."""

from __future__ import annotations

import errno
import json

import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.runtime import metrics
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import JsonlWriter, open_writers

pytestmark = pytest.mark.core


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_hold_what_was_written(tmp_path, no_implicit_transfers):
    loss, gap = jnp.asarray(0.5, jnp.bfloat16), jnp.asarray([np.inf])
    with open_writers(tmp_path) as writer:
        with no_implicit_transfers():
            writer.scalars(1, {"loss": loss, "rate": 2, "gap": gap, "bad": float("nan")})
        writer.texts(1, {"sample": "a\nb"})
        writer.histograms(2, {"norms": np.array([0.0, 1.0, 1.0, np.nan], np.float32)}, bins=2)
        writer.flush()
        found = lines(tmp_path / "metrics.jsonl")  # each line is there at once
    assert [(line["step"], line["kind"]) for line in found] == [
        (1, "scalars"),
        (1, "texts"),
        (2, "histograms"),
    ]
    assert found[0]["values"] == {"loss": 0.5, "rate": 2.0, "gap": "Infinity", "bad": "NaN"}
    assert found[1]["values"] == {"sample": "a\nb"}
    assert found[2]["values"] == {
        "norms": {"counts": [1, 2], "edges": [0.0, 0.5, 1.0], "not_finite": 1}
    }


def test_a_resumed_run_appends_after_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open_writers(tmp_path) as writer:
        writer.scalars(1, {"a": 1})
    with open(path, "a") as file:
        file.write('{"step": 2, "ti')
    with open_writers(tmp_path) as writer:
        writer.scalars(2, {"a": 2})
    assert [line["step"] for line in lines(path)] == [1, 2]


def test_tensorboard_files_appear_when_wished(tmp_path):
    with open_writers(tmp_path, tensorboard=True) as writer:
        writer.scalars(1, {"loss": jnp.float32(1)})
        writer.texts(1, {"sample": "x"})
        writer.histograms(1, {"norms": np.ones((2, 3), np.float32)})
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"sample" in content and b"norms" in content
    assert len(lines(tmp_path / "metrics.jsonl")) == 3


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "is_writer", lambda: False)
    with open_writers(tmp_path, tensorboard=True) as writer:
        writer.scalars(1, {"a": 1})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    real = writer._file

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    writer._file = Full()
    with pytest.raises(UserError, match="no space left"):
        writer.scalars(1, {"a": 1})
    real.close()
