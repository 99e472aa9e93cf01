"""The suppression matrix against its closed forms (spec 17.1: 12, 13, 15, 17) and a plain loop."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.interventions.verbs import suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.suppression import (
    FLOOR,
    TEMPERATURE,
    divergence,
    hidden_effects,
    streamed_kl,
    suppression_effects,
)
from interp_jax.studies.thought_anchors.trace_batch import trace_batch
from interp_jax.testing.tiny import random_parameters, tiny_config
from interp_jax.text.sentences import Sentence

PROMPT, RANGES = 6, np.asarray([[0, 7], [7, 12], [12, 21], [21, 30], [30, 38]], np.int32)


def make_trace(seed=0, vocab=101):
    rng = np.random.default_rng(seed)
    prompt = Prompt(rng.integers(3, vocab, PROMPT).astype(np.int32), np.ones(PROMPT, np.int8))
    tokens = rng.integers(3, vocab, RANGES[-1, 1]).astype(np.int32)
    sentences = tuple(Sentence("x", 0, 1, 1) for _ in RANGES)
    return Trace(prompt, tokens, "", sentences, RANGES)


@pytest.fixture(scope="module")
def network():
    # Long windows, so that every later token can see every sentence.
    config = tiny_config("gemma2", n_layers=2)
    pattern = tuple(dataclasses.replace(kind, window=None) for kind in config.pattern)
    config = dataclasses.replace(config, pattern=pattern)
    return build_decoder(config, random_parameters(config))


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@jax.jit
def all_logits(network, batch):
    return network(batch)[0]


def plain_kl(base, other):
    """D of two rows of logits in float64, at the paper's temperature."""
    log = lambda z: z - np.log(np.exp(z - z.max()).sum()) - z.max()
    p, q = (log(np.asarray(z, np.float64) / TEMPERATURE) for z in (base, other))
    return float((np.exp(p) * (p - q)).sum())


def test_matrix_equals_a_plain_loop_over_sources_and_positions(network, trace):
    found = suppression_effects(network, trace, at_once=2)
    batch = trace_batch(trace, network.config)
    base = np.asarray(all_logits(network, batch))[0]
    for source, span in enumerate(trace.spans):
        edited = suppress_attention(Where(spans=jnp.asarray(span[None])))(network)
        other = np.asarray(all_logits(edited, batch))[0]
        for target in range(source, len(RANGES)):
            at = range(*trace.spans[target])
            expected = np.mean([np.log(max(plain_kl(base[t], other[t]), 0) + 1e-9) for t in at])
            assert found.effects[target, source] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("path", ["reference", "fused"])
def test_targets_before_the_source_are_the_floor_to_the_bit(network, trace, path):
    network = dataclasses.replace(network, path=path)
    effects = suppression_effects(network, trace).effects
    before = np.triu(np.ones_like(effects, bool), 1)
    assert set(effects[before]) == {float(np.log(np.float32(1e-9)))}
    assert effects[before][0] == pytest.approx(FLOOR, abs=1e-5)
    assert (effects[~before] > FLOOR + 1).all()


def test_an_empty_span_changes_nothing(network, trace):
    batch = trace_batch(trace, network.config, 2)
    hidden = jnp.asarray([[[0, 0]], [[9, 9]]], jnp.int32)
    means, counts = hidden_effects(network, batch, hidden, trace.spans, jnp.float32(TEMPERATURE))
    assert set(np.asarray(means).ravel().tolist()) == {float(np.log(np.float32(1e-9)))}
    assert np.asarray(counts["touched/suppression"]).tolist() == [0, 0]


def test_all_sentences_hidden_is_seeing_the_prompt_only(network, trace):
    """Every query after the prompt then sees the prompt's keys alone: checked token by token."""
    batch = trace_batch(trace, network.config)
    hide = suppress_attention(Where(spans=jnp.asarray([[PROMPT, len(trace.ids)]])))
    logits = np.asarray(all_logits(hide(network), batch))[0]
    # One token after the prompt, at its own position, hidden from itself too.
    for place in (0, 3, 20):
        ids = np.concatenate([trace.prompt.ids, trace.tokens[: place + 1]])
        alone = dataclasses.replace(trace, tokens=trace.tokens[: place + 1])
        assert (alone.ids == ids).all()
        short = trace_batch(alone, network.config)
        own = all_logits(hide(network), short)
        assert np.allclose(own[0, len(ids) - 1], logits[len(ids) - 1], atol=1e-4)
        # Other tokens in between change nothing, since nobody may look at them.
        other = trace.tokens[: place + 1].copy()
        other[:place] = (other[:place] + 7) % 90 + 3
        swapped = trace_batch(dataclasses.replace(trace, tokens=other), network.config)
        seen = all_logits(hide(network), swapped)
        assert np.allclose(seen[0, len(ids) - 1], logits[len(ids) - 1], atol=1e-4)


def test_one_compilation_serves_all_sources(network, trace, compile_counter):
    hidden_effects.clear_cache()
    with compile_counter() as counter:
        suppression_effects(network, trace, at_once=2)
        suppression_effects(network, make_trace(1), at_once=2, temperature=1.0)
    assert counter.count_of("hidden_effects") == 1


def test_a_sentence_that_nobody_looks_at_is_refused(network, trace):
    empty = dataclasses.replace(trace, ranges=np.asarray([[0, 3], [5, 5]], np.int32))
    with pytest.raises(UserError, match="suppression"):
        suppression_effects(network, empty)


def test_longer_than_the_context_is_refused(network, trace):
    long = dataclasses.replace(trace, tokens=np.zeros(network.config.max_context, np.int32))
    with pytest.raises(UserError, match="context"):
        suppression_effects(network, long)


@hypothesis.given(
    seed=st.integers(0, 1000), size=st.sampled_from([1e-4, 1e-2, 1.0, 30.0]),
    shift=st.floats(-50, 50),
)
@hypothesis.settings(max_examples=20, deadline=None)
def test_divergence_is_the_kl(seed, size, shift):
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 3, (4, 50)).astype(np.float32)
    other = (base + size * rng.normal(0, 1, base.shape)).astype(np.float32)
    found = np.asarray(divergence(jnp.asarray(base), jnp.asarray(other + np.float32(shift))))
    log = lambda z: z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - (
        z.max(-1, keepdims=True)
    )
    p, q = log(base.astype(np.float64)), log(other.astype(np.float64))
    expected = (np.exp(p) * (p - q)).sum(-1)
    # A shift of 50 costs the logits themselves 4e-6; without one, far smaller KLs come out right.
    assert (found >= 0).all()
    assert np.allclose(found, expected, rtol=2e-3, atol=1e-9 if abs(shift) < 1 else 1e-5)


def test_equal_logits_have_no_divergence():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 9, (3, 64)), jnp.float32)
    assert (np.asarray(divergence(logits, logits)) == 0).all()


def test_streamed_is_direct():
    rng = np.random.default_rng(3)
    head = jnp.asarray(rng.normal(0, 1, (5, 40)), jnp.float32)
    hidden = jnp.asarray(rng.normal(0, 1, (3, 24, 5)), jnp.float32)
    project = lambda x: jnp.einsum("...d,dv->...v", x, head)
    streamed = jax.jit(lambda h: streamed_kl(project, h, jnp.float32(0.6)))(hidden)
    logits = project(hidden) / jnp.float32(0.6)
    assert np.allclose(streamed, divergence(logits[:1], logits), rtol=1e-4, atol=1e-7)
    assert (np.asarray(streamed)[0] == 0).all()
