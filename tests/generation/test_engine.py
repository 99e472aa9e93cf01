"""The engine: a sample is its own, whatever else is in the batch, and equals a plain forward."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.generation.decode import decode_chunk
from interp_jax.generation.engine import Engine, piece
from interp_jax.generation.requests import Request, bucket
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import add, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.runtime.errors import UserError
from tests.generation.samples import (
    GREEDY,
    WARM,
    by_item,
    forced,
    log_softmax,
    network,
    prompts,
    requests,
    same,
)

BUDGETS = [5 + item % 7 for item in range(11)]


def _edit():
    return compose(
        add("resid_post[1]", jnp.linspace(-1.0, 1.0, 32), strength=0.7),
        suppress_attention(Where(positions=[1]), layers=(0, 2)),
    )


@pytest.fixture(scope="module")
def alone():
    """Every request of the ragged set by itself in a single slot."""
    engine = Engine(network(), WARM, stop_tokens=[5, 9], batch_size=1, interventions=_edit())
    return by_item(engine, requests(prompts(11), BUDGETS))


@pytest.mark.parametrize("batch_size", [3, 16])
def test_sample_does_not_depend_on_batch_size(alone, batch_size):
    engine = Engine(
        network(), WARM, stop_tokens=[5, 9], batch_size=batch_size, interventions=_edit()
    )
    same(by_item(engine, requests(prompts(11), BUDGETS)), alone)


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(11)), st.integers(1, 11))
def test_sample_does_not_depend_on_order_or_neighbours(alone, order, count):
    """Another order is another slot and another refill; fewer requests are other neighbours."""
    asked = requests(prompts(11), BUDGETS)
    chosen = [asked[item] for item in order[:count]]
    engine = Engine(
        network(), WARM, stop_tokens=[5, 9], batch_size=3, all_slots=True, interventions=_edit()
    )
    got = by_item(engine, chosen)
    same(got, {item: alone[item] for item in got})


def test_same_bits_with_other_neighbours_in_another_slot():
    """One width and one number of slots: the program is the same, and so are the bits."""
    row = prompts(1, seed=4)[0]
    rest = [np.resize(p, len(row)) for p in prompts(7, seed=5)]

    def engine_run(rows, item):
        asked = requests(rows, 8)
        asked[item] = Request(row, jax.random.key(7), 8, item=item)
        return by_item(Engine(network(), WARM, batch_size=4, all_slots=True), asked)[item]

    first = engine_run([row, *rest], 0)
    later = engine_run([*rest[::-1], row], 7)
    np.testing.assert_array_equal(first.tokens, later.tokens)
    np.testing.assert_array_equal(first.log_probs, later.log_probs)


def test_keys_decide_the_draw():
    """Without this, a sampler that ignored keys would pass every test of independence."""
    rows = [prompts(1)[0]] * 6
    tokens = {tuple(s.tokens) for s in by_item(Engine(network(), WARM), requests(rows, 8)).values()}
    assert len(tokens) > 1


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_greedy_is_the_argmax_of_a_full_forward(family):
    net, rows = network(family), prompts(5, seed=1)
    got = by_item(Engine(net, GREEDY, batch_size=2), requests(rows, 10))
    for item, row in enumerate(rows):
        logits, _ = forced(net, row, got[item].tokens)
        np.testing.assert_array_equal(logits.argmax(-1), got[item].tokens)


def test_log_probs_are_those_of_a_teacher_forced_forward():
    """Under no filter both are the tempered softmax; at temperature 1 they are the model's."""
    net, rows = network(), prompts(5, seed=2)
    params = SamplingParams.make(0.7, with_model_log_prob=True)
    edited = _edit()(net)
    engine = Engine(net, params, batch_size=2, interventions=_edit())
    for item, sample in by_item(engine, requests(rows, 10)).items():
        logits, _ = forced(edited, rows[item], sample.tokens)
        pick = lambda a, s=sample: np.take_along_axis(a, s.tokens[:, None], 1)[:, 0]
        np.testing.assert_allclose(sample.log_probs, pick(log_softmax(logits / 0.7)), atol=3e-5)
        np.testing.assert_allclose(sample.model_log_probs, pick(log_softmax(logits)), atol=3e-5)


def test_model_log_probs_only_on_request():
    sample = by_item(Engine(network(), GREEDY), requests(prompts(1), 3))[0]
    assert sample.model_log_probs is None


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_scanned_equals_unrolled(family):
    """Gemma 3's pattern of six with a remainder of two; Llama's three equal layers."""
    asked = requests(prompts(5, seed=3), 8)
    got = [
        by_item(Engine(network(family, layout), WARM, batch_size=3, interventions=_edit()), asked)
        for layout in ("unrolled", "scanned")
    ]
    same(*got, tolerance=5e-5)


def test_bfloat16_follows_its_own_forward():
    """Log-probabilities on forced tokens, within the rounding of bfloat16 products."""
    net, rows = network(dtype="bfloat16"), prompts(3, seed=6)
    params = SamplingParams.make(1.0)
    for item, sample in by_item(Engine(net, params, batch_size=2), requests(rows, 8)).items():
        logits, _ = forced(net, rows[item], sample.tokens)
        want = np.take_along_axis(log_softmax(logits), sample.tokens[:, None], 1)[:, 0]
        np.testing.assert_allclose(sample.log_probs, want, atol=0.05)


def test_stop_tokens_and_budget_end_a_row():
    rows = prompts(4, seed=8)
    free = by_item(Engine(network(), GREEDY), requests(rows, 12))
    stop = int(free[0].tokens[3])
    ended = by_item(Engine(network(), GREEDY, stop_tokens=[stop]), requests(rows, 12))
    for item, whole in free.items():
        hits = np.flatnonzero(whole.tokens == stop)
        end = hits[0] + 1 if len(hits) else 12
        np.testing.assert_array_equal(ended[item].tokens, whole.tokens[:end])
        assert ended[item].finish == ("stop" if len(hits) else "length")
    short = by_item(Engine(network(), GREEDY), requests(rows, [1, 2, 3, 4]))
    for item, whole in free.items():
        np.testing.assert_array_equal(short[item].tokens, whole.tokens[: item + 1])


def test_repetition_penalty_sees_prompt_and_own_tokens():
    net, rows = network(), prompts(3, seed=9)
    params = SamplingParams.make(0.0, repetition_penalty=1.8)
    plain = by_item(Engine(net, GREEDY), requests(rows, 10))
    got = by_item(Engine(net, params), requests(rows, 10))
    assert any((got[i].tokens != plain[i].tokens).any() for i in got)
    for item, sample in got.items():
        logits, _ = forced(net, rows[item], sample.tokens)
        for step, token in enumerate(sample.tokens):
            seen = np.unique(np.concatenate([rows[item], sample.tokens[:step]]))
            row = logits[step].copy()
            row[seen] = np.where(row[seen] < 0, row[seen] * 1.8, row[seen] / 1.8)
            assert token == row.argmax()


def test_per_row_interventions_equal_solo_runs():
    net, rows = network(), prompts(7, seed=10)
    vectors = jax.random.normal(jax.random.key(1), (7, 32))
    steer = lambda items: add("resid_post[1]", vectors[jnp.asarray(items)])
    engine = Engine(net, WARM, batch_size=3, per_row=steer)
    got = by_item(engine, requests(rows, 8))
    plain = by_item(Engine(net, WARM, batch_size=3), requests(rows, 8))
    assert any((got[i].tokens != plain[i].tokens).any() for i in got)
    for request in requests(rows, 8):
        own = Engine(net, WARM, interventions=add("resid_post[1]", vectors[request.item]))
        same({request.item: got[request.item]}, by_item(own, [request]))


def test_context_overflow_is_refused():
    row = np.arange(3, 99, dtype=np.int32)
    engine = Engine(network(), GREEDY)
    with pytest.raises(UserError, match="context"):
        list(engine.run(requests([row], 256 - len(row) + 1)))
    with pytest.raises(UserError, match="at least 1"):
        Request(row, jax.random.key(0), 0)
    with pytest.raises(UserError, match="at least one token"):
        Request(row[:0], jax.random.key(0), 1)


def test_a_row_may_fill_its_context_to_the_last_token():
    row = np.resize(prompts(1)[0], 250)
    assert len(by_item(Engine(network(), GREEDY), requests([row], 6))[0].tokens) == 6


def test_sweep_over_numbers_compiles_once(compile_counter):
    asked = requests(prompts(6, seed=11), 6)

    def sweep(temperature, top_p, strength):
        vector = jnp.full(32, strength, jnp.float32)
        steer = add("resid_post[1]", vector, strength=jnp.float32(strength))
        params = SamplingParams.make(temperature, top_p=top_p)
        return by_item(Engine(network(), params, batch_size=4, interventions=steer), asked)

    first = sweep(0.5, 0.9, 0.25)
    with compile_counter() as counter:
        others = [sweep(t, p, s) for t, p, s in ((0.9, 0.8, 0.5), (1.5, 0.7, 4.0))]
    assert counter.count == 0, counter.names
    assert any((first[i].tokens != o[i].tokens).any() for o in others for i in first)


def test_programs_are_few(compile_counter):
    """A decode program per (slots, rows); at most two admissions per prompt width."""
    rows = prompts(60, seed=12, longest=40)
    rng = np.random.default_rng(0)
    asked = requests(rows, rng.integers(1, 30, 60))
    engine = Engine(network(), SamplingParams.make(0.9, top_k=7), batch_size=32)
    with compile_counter() as counter:
        list(engine.run(asked))
    widths = {1 if len(r) == 1 else bucket(len(r) - 1) for r in rows}
    states = len(engine.stats.buckets)
    assert counter.count_of("decode_chunk") == states
    assert counter.count_of("admit_rows") <= 2 * len(widths) * states
    assert {piece(n, 32) for n in range(1, 33)} == {2, 32}


def test_chunks_do_not_copy_the_cache():
    """The compiled loop holds one cache: its temporaries are smaller than the cache itself."""
    from interp_jax.generation.slots import empty_slots

    net = network()
    state = empty_slots(net, 16, 192, 16)
    cache = sum(a.nbytes for a in jax.tree.leaves(state.cache.layers))
    args = (jnp.asarray([-1], jnp.int32), jnp.int8(0), jnp.int32(4), jnp.int32(1))
    memory = decode_chunk.lower(net, state, GREEDY, *args).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= cache
    assert memory.temp_size_in_bytes < cache


def test_unknown_batch_size_is_refused():
    with pytest.raises(UserError, match="batch_size"):
        Engine(network(), GREEDY, batch_size=0)


def test_sample_first_cuts_what_is_per_token():
    sample = by_item(Engine(network(), WARM), requests(prompts(1), 6))[0]
    cut = sample.first(2)
    assert len(cut.tokens) == len(cut.log_probs) == len(cut.model_log_probs) == 2
    assert dataclasses.replace(cut, tokens=sample.tokens).item == sample.item
