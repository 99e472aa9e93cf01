"""The masking graph against a plain loop that deletes, re-scores and aligns by hand."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.masking_graph import masking_graph
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.sentences import Sentence

RANGES = np.asarray([[0, 7], [7, 12], [12, 21], [21, 30], [30, 38], [38, 40]], np.int32)


@pytest.fixture(scope="module")
def network():
    config = tiny_config("llama", n_layers=2)
    return build_decoder(config, random_parameters(config))


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(0)
    prompt = Prompt(rng.integers(3, 101, 6).astype(np.int32), np.ones(6, np.int8))
    tokens = rng.integers(3, 101, 40).astype(np.int32)
    return Trace(prompt, tokens, "", tuple(Sentence("x", 0, 1, 1) for _ in RANGES), RANGES)


@pytest.fixture(scope="module")
def lists(network, trace):
    """Log-probabilities without each sentence, one padded program: (base, [without i])."""
    forward = jax.jit(lambda batch: jax.nn.log_softmax(network(batch)[0][0], axis=-1))

    def run(ids):
        padded = np.zeros((1, 64), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(forward(Batch.make(padded, np.arange(64)[None] < len(ids))), np.float64)

    holes = [np.r_[trace.ids[:start], trace.ids[end:]] for start, end in trace.spans]
    return run(trace.ids), [run(ids) for ids in holes]


def cells(trace, lists, compare):
    """compare(log p [n, V], log q [n, V]) -> [n] for the tokens of each later sentence."""
    base, without = lists
    for source, (start, end) in enumerate(trace.spans[:-2]):
        for target in range(source + 1, len(trace.spans)):
            at = np.arange(*trace.spans[target]) - 1
            yield target, source, compare(base[at], without[source][at - (end - start)])


@pytest.mark.parametrize("options", [{}, {"at_once": 2}, {"recompute": "full"}], ids=str)
def test_matrices_equal_a_plain_loop(network, trace, lists, options):
    graph = masking_graph(network, trace, **options)
    kl = lambda p, q: (np.exp(p) * (p - q)).sum(-1)
    seen = np.zeros(graph.mean.shape, bool)
    for target, source, values in cells(trace, lists, kl):
        seen[target, source] = True
        assert graph.mean[target, source] == pytest.approx(values.mean(), rel=1e-3)
        assert graph.total[target, source] == pytest.approx(values.sum(), rel=1e-3)
        assert graph.first[target, source] == pytest.approx(values[:3].mean(), rel=1e-3)
    # The last sentence leaves nothing, the one before it two tokens: too few.
    assert (np.isfinite(graph.mean) == seen).all()


def test_short_lists_are_compared_as_an_endpoint_would_let_one(network, trace, lists):
    top = 7
    graph = masking_graph(network, trace, top_logprobs=top)
    best = lambda logs: np.argsort(-logs, axis=-1)[:, :top]
    base, without = lists
    length = len(trace.ids)
    floors = []
    for (start, end), other in zip(trace.spans, without, strict=True):
        at = np.arange(end - 1, length - 1)
        for logs in (base[at], other[at - (end - start)]):
            floors += np.sort(logs, axis=-1)[:, -top].tolist()
    floor = min(floors)

    def compare(p, q):
        known = np.full_like(q, floor)
        np.put_along_axis(known, best(q), np.take_along_axis(q, best(q), 1), 1)
        p, known = np.take_along_axis(p, best(p), 1), np.take_along_axis(known, best(p), 1)
        return (np.exp(p) * (p - known)).sum(-1)

    for target, source, values in cells(trace, lists, compare):
        assert graph.mean[target, source] == pytest.approx(values.mean(), rel=1e-3, abs=1e-5)


def test_cleaned_and_profile(network, trace):
    graph = masking_graph(network, trace)
    assert np.abs(np.nansum(graph.cleaned(), axis=1)).max() < 1e-12
    near = [graph.mean[i + 1, i] for i in range(4)]
    assert graph.profile()[1] == pytest.approx(np.mean(near))


def test_a_first_sentence_without_a_prompt_is_scored_from_its_second_follower(network, trace):
    bare = dataclasses.replace(trace, prompt=Prompt(np.zeros(0, np.int32), np.zeros(0, np.int8)))
    graph = masking_graph(network, bare)
    assert np.isfinite(graph.mean[1:5, 0]).all()
    start, stop = bare.spans[1]
    assert start == bare.spans[0, 1]
    logs = [
        np.asarray(jax.nn.log_softmax(network(Batch.make(ids[None]))[0][0], axis=-1), np.float64)
        for ids in (bare.ids, bare.ids[start:])
    ]
    at = np.arange(start, stop - 1)  # what predicts the second follower and on
    p, q = logs[0][at], logs[1][at - start]
    assert graph.total[1, 0] == pytest.approx((np.exp(p) * (p - q)).sum(), rel=1e-3)


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_logprobs": 0}], ids=str)
def test_options_out_of_range_are_refused(network, trace, options):
    with pytest.raises(UserError, match=next(iter(options))):
        masking_graph(network, trace, **options)
