"""The suppression matrix against its closed forms and a plain loop over sources and positions."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.generation.prompts import Prompt
from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import read, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors import suppression, suppression_plan
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.kl import divergence
from interp_jax.studies.thought_anchors.normalise import normalise_suppression
from interp_jax.studies.thought_anchors.suppression import (
    FLOOR,
    TEMPERATURE,
    suppression_effects,
)
from interp_jax.studies.thought_anchors.suppression_plan import plan_suffixes
from interp_jax.studies.thought_anchors.suppression_suffix import (
    compact,
    edited_streams,
    suffix_batch,
    unedited_trace,
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


@pytest.mark.parametrize(
    ("path", "recompute"), [("reference", "full"), ("fused", "full"), ("fused", "suffix")]
)
def test_targets_before_the_source_are_the_floor_to_the_bit(network, trace, path, recompute):
    """Run in full, those targets are computed like the others."""
    network = dataclasses.replace(network, path=path)
    effects = suppression_effects(network, trace, recompute=recompute).effects
    before = np.triu(np.ones_like(effects, bool), 1)
    assert set(effects[before].tolist()) == {FLOOR}
    assert (effects[~before] > FLOOR + 1).all()
    assert pytest.approx(np.log(1e-9), abs=1e-5) == FLOOR


def test_suffix_is_full(network, trace):
    """The same work split otherwise, whatever the rows of a batch and the options."""
    for options in ({"at_once": 2}, {"layers": (1,), "heads": (0, 3), "first_tokens": 3}):
        full, suffix = (
            suppression_effects(network, trace, log=False, recompute=recompute, **options)
            for recompute in ("full", "suffix")
        )
        assert np.abs(full.effects - suffix.effects).max() < 1e-5 * full.effects.max()
        assert (full.keyless == suffix.keyless).all()


def test_the_suffix_runs_fewer_tokens():
    """Groups are few, none starts behind a source, and together they run little more than half."""
    starts = np.arange(60, 1060, 20)
    plan = plan_suffixes(starts, 1060)
    assert len(plan.groups) <= 8
    assert sorted(s for group in plan.groups for s in group.sources) == list(range(50))
    for group in plan.groups:
        # A column at least shows that nothing has changed before an edit.
        assert group.start < min(starts[list(group.sources)])
        assert group.start + group.length == plan.columns == 1072
        assert group.start % 64 == 0
    run = sum(group.length * (len(group.sources) + (not plan.apart)) for group in plan.groups)
    assert run < 0.68 * len(starts) * 1060
    whole = plan_suffixes(starts, 1060, recompute="full")
    assert [(group.start, len(group.sources)) for group in whole.groups] == [(0, 50)]


@pytest.mark.parametrize("first, start", [(0, 0), (1, 0), (64, 0), (65, 64), (900, 896)])
def test_a_long_trace_is_run_from_a_block_of_queries_before_the_edit(first, start):
    (group,) = plan_suffixes([first], 1000).groups
    assert (group.start, group.length) == (start, 1008 - start)


def test_an_edit_of_nothing_at_the_end_is_planned():
    (group,) = plan_suffixes([60], 60).groups
    assert (group.start, group.length) == (48, 16)


def long_trace():
    """Long enough that the unedited trace is run once only."""
    ranges = np.asarray([[0, 100], [150, 220], [300, 310], [400, 560]], np.int32)
    rng = np.random.default_rng(2)
    prompt = Prompt(rng.integers(3, 101, PROMPT).astype(np.int32), np.ones(PROMPT, np.int8))
    tokens = rng.integers(3, 101, 570).astype(np.int32)
    return Trace(prompt, tokens, "", tuple(Sentence("x", 0, 1, 1) for _ in ranges), ranges)


def long_network(window=None):
    config = tiny_config("llama", n_layers=2, max_context=1024)
    pattern = tuple(dataclasses.replace(kind, window=window) for kind in config.pattern)
    config = dataclasses.replace(config, pattern=pattern)
    return build_decoder(config, random_parameters(config))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only on a CPU")
def test_a_long_trace_has_the_bits_of_its_one_unedited_run():
    """A row that hides nothing is that run wherever it begins, alone or beside another."""
    network, trace = compact(long_network()), long_trace()
    end = int(trace.spans[:, 1].max())
    plan = plan_suffixes(trace.spans[:, 0], end)
    assert plan.apart and len(plan.groups) > 1
    unedited = unedited_trace(network, trace, end, plan)
    for group in plan.groups:
        batch = suffix_batch([(trace.ids[:end], trace.roles[:end])] * 2, group, end)
        hidden = np.asarray([[[0, 0]], [trace.spans[group.sources[0]]]], np.int32)
        clean = np.asarray([end, hidden[1, 0, 0]], np.int32)
        streams, same, _ = edited_streams(network, batch, unedited, clean, hidden)
        assert same
        np.testing.assert_array_equal(streams[0][:end], unedited.stream[:end])
        assert np.any(np.asarray(streams[1] != unedited.stream))


@pytest.mark.parametrize("window", [None, 30])
def test_the_suffixes_of_a_long_trace_are_the_full_runs(window, monkeypatch):
    """One unedited run, against whole rows with an unedited one beside them."""
    network, trace = long_network(window), long_trace()
    found = suppression_effects(network, trace, log=False).effects
    monkeypatch.setattr(suppression_plan, "_LONG", 10**6)
    expected = suppression_effects(network, trace, log=False, recompute="full").effects
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only on a CPU")
def test_other_bits_before_an_edit_give_a_group_its_own_unedited_row(monkeypatch):
    network, trace = long_network(), long_trace()
    expected, done = suppression_effects(network, trace), []
    plain = suppression.unedited_trace

    def moved(*given):
        unedited = plain(*given)
        return unedited._replace(stream=unedited.stream * jnp.float32(1 + 3e-7))

    monkeypatch.setattr(suppression, "unedited_trace", moved)
    found = suppression_effects(network, trace, on_progress=done.append)
    below = np.tril(np.ones_like(found.effects, bool))
    np.testing.assert_allclose(found.effects[below], expected.effects[below], atol=1e-4)
    assert (found.keyless == expected.keyless).all()
    assert sum(done) == len(trace.spans)


def test_a_sentence_beyond_every_window_changes_nothing(network, trace):
    """No head reaches so far back, so the last targets are the floor to the bit."""
    pattern = tuple(dataclasses.replace(kind, window=4) for kind in network.config.pattern)
    config = dataclasses.replace(network.config, pattern=pattern)
    near = build_decoder(config, random_parameters(config))
    for recompute in ("suffix", "full"):
        effects = suppression_effects(near, trace, recompute=recompute).effects
        # Two layers reach back six tokens; the fourth sentence begins 9 after the second ends.
        assert effects[3, 1] == effects[4, 1] == effects[4, 0] == FLOOR
        assert effects[1, 0] > FLOOR + 1


def test_a_span_of_nothing_changes_nothing(network, trace):
    ranges = np.asarray([[0, 7], [5, 5], [7, 12]], np.int32)
    empty = dataclasses.replace(trace, ranges=ranges)
    effects = suppression_effects(network, empty, allow_untouched=True).effects
    assert set(effects[:, 1].tolist()) <= {FLOOR, effects[1, 1]}
    assert effects[0, 1] == effects[2, 1] == FLOOR


def test_normalised_rows_have_mean_zero_and_forget_a_constant_of_the_target(network, trace):
    effects = suppression_effects(network, trace).effects
    normalised = normalise_suppression(effects)
    assert np.abs(np.nansum(normalised, axis=1)).max() < 1e-12
    assert normalised[1, 0] == 0
    moved = normalise_suppression(effects + np.arange(5.0)[:, None] ** 2)
    assert np.nanmax(np.abs(moved - normalised)) < 1e-12


def test_hidden_keys_renormalise_the_rest():
    """One layer, one head: (o - sum of a_k v_k over the hidden) / (1 - sum of a_k)."""
    config = tiny_config("llama", n_layers=1, n_heads=1, n_kv_heads=1)
    single = build_decoder(config, random_parameters(config))
    batch = Batch.make(np.random.default_rng(1).integers(3, 101, (1, 12)), None)
    looks = compose(read("attn_weights[0]"), read("attn_v[0]"), read("head_out[0]"))
    hide = suppress_attention(Where(spans=np.asarray([[2, 5]])))
    tape = jax.jit(lambda network: network(batch, logits_at="none")[1])
    plain, hidden = tape(looks(single)), tape(looks(hide(single)))
    weights, values = plain["attn_weights[0]"][0, 0, 0], plain["attn_v[0]"][0, 0, :, 0]
    mix, found = (tape["head_out[0]"][0, 0, :, 0] for tape in (plain, hidden))
    lost = np.asarray(weights[:, 2:5])
    expected = (mix - lost @ values[2:5]) / (1 - lost.sum(1, keepdims=True))
    assert np.allclose(found, expected, atol=1e-5)


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


def test_programs_are_one_for_each_length(network, trace, compile_counter):
    edited_streams.clear_cache()
    groups = plan_suffixes(trace.spans[:, 0], len(trace.ids)).groups
    with compile_counter() as counter:
        suppression_effects(network, trace)
        suppression_effects(network, make_trace(1), temperature=1.0)
    assert counter.count_of("edited_streams") == len(groups) > 1
    edited_streams.clear_cache()
    with compile_counter() as counter:
        suppression_effects(network, trace, recompute="full")
    assert counter.count_of("edited_streams") == 1


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


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"at_once": 0}, {"first_tokens": 0}], ids=str
)
def test_options_out_of_range_are_refused(network, trace, options):
    with pytest.raises(UserError, match=next(iter(options))):
        suppression_effects(network, trace, **options)
