"""Receiver heads from a real forward pass: reduced in the pass = averaged outside (spec 17.1)."""

from __future__ import annotations

import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import read
from interp_jax.models.decoder import build_decoder
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.receiver import (
    find_receiver_heads,
    sentence_attention,
    too_short,
)
from interp_jax.studies.thought_anchors.trace_batch import trace_batch
from interp_jax.studies.thought_anchors.vertical import MINIMUM_SENTENCES, sentence_average
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.sentences import Sentence


@pytest.fixture(scope="module")
def network():
    config = tiny_config("qwen3")
    return build_decoder(config, random_parameters(config))


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(5)
    ends = np.cumsum(rng.integers(1, 4, 24))
    ranges = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32)
    prompt = Prompt(rng.integers(3, 101, 5).astype(np.int32), np.zeros(5, np.int8))
    tokens = rng.integers(3, 101, ends[-1]).astype(np.int32)
    return Trace(prompt, tokens, "", tuple(Sentence("x", 0, 1, 1) for _ in ranges), ranges)


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
