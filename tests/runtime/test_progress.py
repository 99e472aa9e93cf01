"""Bars on a terminal, log lines elsewhere, honest rates after a resume."""

from __future__ import annotations

import io
import logging

import pytest

from interp_jax.runtime import progress
from interp_jax.runtime.progress import Progress

pytestmark = pytest.mark.core


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_gets_a_bar_that_starts_from_the_restored_step():
    stream = Terminal()
    with Progress(10, "rollouts", unit="rollouts", start=4, stream=stream) as bar:
        bar.update(3, busy=0.5)
    text = stream.getvalue()
    assert "4/10" in text and "7/10" in text and "busy=0.5" in text


def test_elsewhere_lines_are_logged_now_and_then(clock, caplog):
    caplog.set_level(logging.INFO, logger="interp_jax")
    stream = io.StringIO()
    with Progress(100, "train", start=40, log_every=30, stream=stream) as bar:
        for _ in range(6):
            clock[0] += 10
            bar.update(5, loss=0.25)
    assert stream.getvalue() == ""
    assert [record.getMessage() for record in caplog.records] == [
        "train: 55/100 steps, 0.5 steps/s, 1:30 left, loss 0.25",
        "train: 70/100 steps, 0.5 steps/s, 1:00 left, loss 0.25",
        "train: 70/100 steps, 0.5 steps/s, 1:00 left, loss 0.25",
    ]


def test_other_processes_show_nothing(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="interp_jax")
    monkeypatch.setattr(progress, "is_writer", lambda: False)
    stream = Terminal()
    with Progress(2, "x", stream=stream, log_every=0) as bar:
        bar.update()
    assert stream.getvalue() == "" and not caplog.records
    assert bar.done == 1


def test_long_times_are_readable():
    assert [progress._clock(seconds) for seconds in (0, 59.6, 3599, 3601)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:01",
    ]
