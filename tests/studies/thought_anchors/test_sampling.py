"""The size of a batch follows from what a round asks for, whatever of it is there already."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.generation.requests import Sample, Stats
from interp_jax.runtime.journal import Journal
from interp_jax.studies.thought_anchors import sampling
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.sampling import Continuation, TraceSampler, samples_in
from tests.studies.thought_anchors.small_study import small_config


class Echo:
    """An engine that writes one token for each request."""

    def __init__(self, rows):
        self.rows, self.stats = rows, Stats()

    def run(self, requests, prefix):
        self.stats.steps += 1
        for request in requests:
            yield Sample(
                request.item, np.asarray([request.cut]), np.zeros(1), None, "stop", {}
            )


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A sampler of 16 rows at most over a trace of ten tokens, and the rows of its engines."""
    rows = []

    def fake(lm, config, count):
        rows.append(count)
        return Echo(count)

    monkeypatch.setattr(sampling, "sampler", fake)
    prefix = SimpleNamespace(tokens=np.arange(12), roles=np.zeros(12, np.int8))
    lm = SimpleNamespace(
        network=SimpleNamespace(config=SimpleNamespace(max_context=64)), prefix=lambda _: prefix
    )
    prompt = Prompt(np.arange(2, dtype=np.int32), np.zeros(2, np.int8))
    trace = Trace(prompt, np.arange(10, dtype=np.int32), "", (), np.zeros((0, 2), np.int32))
    with Journal(tmp_path / "j.jsonl") as journal:
        config = small_config(tmp_path, batch_size=16)
        writer = SimpleNamespace(scalars=lambda step, values: None)
        yield TraceSampler(lm, trace, config, journal, writer), journal, rows


def asked(names):
    return {name: Continuation(5, jax.random.key(0), 4) for name in names}


def test_rows_by_the_number_asked(made):
    sampler, journal, rows = made
    sampler.sample(asked([f"a/{n}" for n in range(40)]), 50)
    assert rows == [16]  # more than a batch: whole batches
    sampler.sample(asked([f"b/{n}" for n in range(5)]), 50)
    assert rows == [16, 6]
    sampler.sample(asked([f"c/{n}" for n in range(6)]), 50)
    assert rows == [16, 6]  # the same engine again
    # Four of five are there: the batch is that of the whole round.
    journal_names = [f"d/{n}" for n in range(5)]
    for name in journal_names[:4]:
        journal.append(name, {"tokens": [1], "finish": "stop"})
    sampler.sample(asked(journal_names), 60)
    assert rows == [16, 6] and len(samples_in(journal)) == 56
    assert sampler.stats.steps == 4 and sampler.tokens == 52


def test_a_round_that_is_there_starts_nothing(made):
    sampler, journal, rows = made
    journal.append("a/0", {"tokens": [1], "finish": "stop"})
    sampler.sample(asked(["a/0"]), 1)
    assert rows == [] and list(samples_in(journal)) == ["a/0"]
