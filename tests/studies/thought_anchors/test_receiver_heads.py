"""Receiver heads from a real forward pass: reduced in the pass = averaged outside (spec 17.1)."""

from __future__ import annotations

import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import read
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.receiver import (
    find_receiver_heads,
    receiver_heads_over,
    sentence_attention,
    too_short,
    vertical_attention,
)
from interp_jax.studies.thought_anchors.trace_batch import trace_batch
from interp_jax.studies.thought_anchors.vertical import (
    MINIMUM_SENTENCES,
    head_kurtosis,
    mean_kurtosis,
    select_receiver_heads,
    sentence_average,
    split_half_reliability,
    vertical_scores,
)
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.sentences import Sentence


@pytest.fixture(scope="module")
def network():
    config = tiny_config("llama", max_context=256)
    return build_decoder(config, random_parameters(config))


def made_trace(seed: int, sentences: int, longest: int) -> Trace:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, longest + 1, sentences))
    ranges = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32)
    prompt = Prompt(rng.integers(3, 101, 5).astype(np.int32), np.zeros(5, np.int8))
    tokens = rng.integers(3, 101, ends[-1]).astype(np.int32)
    return Trace(prompt, tokens, "", tuple(Sentence("x", 0, 1, 1) for _ in ranges), ranges)


@pytest.fixture(scope="module", params=["short", "long"])
def trace(request):
    """The short one is reduced from whole matrices, the long one (over 128 tokens) by block."""
    made = made_trace(5, 24, 3) if request.param == "short" else made_trace(6, 24, 14)
    assert (len(made.ids) > 128) == (request.param == "long")
    return made


def test_reduced_in_the_pass_is_averaged_outside(network, trace):
    found = sentence_attention(network, trace)
    batch = trace_batch(trace, network.config)
    _, tape = run(network, batch, read("attn_weights", name="all"), logits_at="none")
    full = np.asarray(tape["all"])[:, 0]
    assert found.shape == (network.config.n_layers, network.config.n_heads, 24, 24)
    assert np.allclose(found, sentence_average(full, trace.spans), atol=1e-6)


def test_attention_on_sentences_and_prompt_sums_to_one(network, trace):
    """Oracle 6: the sentences tile the trace, so with the prompt nothing is left out."""
    found = sentence_attention(network, trace)
    lengths = (trace.spans[:, 1] - trace.spans[:, 0]).astype(np.float64)
    batch = trace_batch(trace, network.config)
    _, tape = run(network, batch, read("attn_weights", name="all"), logits_at="none")
    prompt = np.asarray(tape["all"])[:, 0, :, :, : len(trace.prompt.ids)].sum(-1)
    for index, (start, end) in enumerate(trace.spans):
        share = prompt[..., start:end].mean(-1)
        assert np.allclose((found[:, :, index] * lengths).sum(-1) + share, 1, atol=1e-5)


def test_heads_are_the_best_of_later_layers(network, trace):
    found = find_receiver_heads(network, trace, top=3)
    ranked = np.sort(found.kurtosis[1:].ravel())[::-1][:3]
    assert np.allclose([found.kurtosis[head] for head in found.heads], ranked)
    assert len(find_receiver_heads(network, trace, top=500).heads) == found.kurtosis[1:].size


def test_too_short_says_why():
    assert too_short(MINIMUM_SENTENCES) is None
    assert "19 sentences" in too_short(19)


def test_vertical_scores_are_those_of_the_matrix(network, trace):
    """With P = 4, and with a P that leaves nothing."""
    wanted = vertical_scores(sentence_attention(network, trace))
    found = vertical_attention(network, trace)
    assert found.shape == wanted.shape
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.isnan(found[..., -4:]).all() and np.isfinite(found[..., :-4]).all()
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-7, equal_nan=True)
    assert np.isnan(vertical_attention(network, trace, proximity=24)).all()


@pytest.fixture(scope="module")
def several():
    traces = [made_trace(seed, 22 + seed, 2) for seed in range(3)]
    return [*traces, made_trace(9, MINIMUM_SENTENCES - 1, 2)]


def test_heads_over_traces(network, several):
    """The mean of each trace's kurtosis; the trace that is too short has no say."""
    done = []
    found = receiver_heads_over(network, several, top=3, on_progress=done.append)
    each = [head_kurtosis(vertical_scores(sentence_attention(network, t))) for t in several[:3]]
    each = np.stack(each)
    assert found.used == [0, 1, 2] and sum(done) == 3
    # A kurtosis divides by a small variance, of scores in float32.
    assert np.allclose(found.kurtosis, each, rtol=1e-2, atol=1e-2)
    assert found.heads == select_receiver_heads(mean_kurtosis(found.kurtosis), 3)
    assert found.reliability == split_half_reliability(found.kurtosis)
    assert [len(scores) for scores in found.scores] == [22, 23, 24]


def test_depth_control_and_median_are_choices(network, several):
    plain = receiver_heads_over(network, several[:1], top=2)
    assert plain.reliability is None
    for options in ({"control_depth": True}, {"statistic": "median"}):
        found = receiver_heads_over(network, several[:1], top=2, **options)
        matrix = sentence_attention(network, several[0])
        wanted = head_kurtosis(vertical_scores(matrix, **options))
        assert np.allclose(found.mean, wanted, equal_nan=True)
        assert not np.allclose(found.mean, plain.mean, equal_nan=True)


def test_traces_that_are_all_too_short_are_refused(network, several):
    with pytest.raises(UserError, match="19 sentences"):
        receiver_heads_over(network, several[3:])
