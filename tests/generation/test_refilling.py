"""Slots are refilled as rows finish, and programs and memory stay few and small."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation import engine as engine_module
from interp_jax.generation.decode import decode_chunk
from interp_jax.generation.engine import Engine, piece
from interp_jax.generation.requests import Request, bucket
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.generation.slots import empty_slots
from interp_jax.interventions.verbs import add
from interp_jax.models.decoder import build_decoder
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.generation.samples import GREEDY, by_item, engine, network, prompts, requests

MANY = SamplingParams.make(1.5)


def _many():
    """400 requests with random budgets, and stop tokens that come early for some."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 101, rng.integers(2, 17)) for _ in range(400)]
    return requests(rows, rng.integers(17, 64 - 16, 400))


def test_rows_are_busy_while_requests_wait(monkeypatch):
    """64 slots, 400 requests: at least 90 % busy, refilled long before a wave has ended."""
    events = []
    admit, decode = engine_module.admit_rows, engine_module.decode_chunk

    def seen_admit(network, state, arrivals, prefix):
        still = int(np.sum(np.asarray(state.active)))
        events.append(("admit", int(np.sum(np.asarray(arrivals.slot) < state.rows)), still))
        return admit(network, state, arrivals, prefix)

    def seen_decode(*arguments):
        events.append(("decode", 0, 0))
        return decode(*arguments)

    monkeypatch.setattr(engine_module, "admit_rows", seen_admit)
    monkeypatch.setattr(engine_module, "decode_chunk", seen_decode)
    running = Engine(network(), MANY, stop_tokens=[3, 4], batch_size=64)
    asked = _many()
    got = by_item(running, asked)
    stats = running.stats
    assert {s.finish for s in got.values()} == {"stop", "length"}
    assert stats.busy_while_waiting >= 0.9
    # The count is honest: every active row-step made one token, and there were as many.
    assert stats.active_row_steps == sum(len(s.tokens) for s in got.values())
    later = [(rows, still) for name, rows, still in events[events.index(("decode", 0, 0)) :]
             if name == "admit"]
    assert len(later) > 20
    assert np.mean([still >= 48 for _, still in later]) > 0.7  # the others went on
    assert sum(rows for name, rows, _ in events if name == "admit") == 400


def test_bucket_follows_from_prompt_and_budget():
    asked = _many()[:24] + [Request(np.arange(3, 40), jax.random.key(1), 50, item=900)]
    running = Engine(network(), MANY, stop_tokens=[3, 4], batch_size=64)
    by_item(running, asked)
    want: dict[int, int] = {}
    for request in asked:
        slots = bucket(len(request.tokens) + request.budget)
        want[slots] = want.get(slots, 0) + 1
    assert {slots: n for (slots, _), n in running.stats.buckets.items()} == want
    assert len(want) > 2
    assert 0 < running.stats.padding < 1


def test_bucket_sizes_waste_at_most_a_third():
    for n in range(17, 2000):
        assert n <= bucket(n) < 1.5 * (n + 1)


def test_sweep_over_numbers_compiles_nothing_new(compile_counter):
    asked = requests(prompts(6, seed=11))

    def sweep(temperature, top_p, strength):
        steer = add("resid_post[1]", jnp.linspace(-1, 1, 32) * strength, strength=strength)
        params = SamplingParams.make(temperature, top_p=top_p)
        return by_item(engine(params, interventions=steer), asked)

    first = sweep(0.5, 0.9, np.float32(0.25))
    with compile_counter() as counter:
        others = [sweep(t, p, np.float32(s)) for t, p, s in ((0.9, 0.8, 0.5), (1.5, 0.7, 4.0))]
    assert counter.count == 0, counter.names
    assert any((first[i].tokens != o[i].tokens).any() for o in others for i in first)


def test_programs_are_few(compile_counter):
    """One decode program per (slots, rows); at most two admissions per prompt width."""
    rows = prompts(12, seed=12, shortest=2, longest=20)
    config = tiny_config("llama", n_layers=1, max_context=250)  # no other test's programs
    net = build_decoder(config, random_parameters(config))
    running = engine(SamplingParams.make(0.9), net=net)
    asked = requests(rows, [bucket(len(r) + 1) - len(r) for r in rows])  # two buckets
    with compile_counter() as counter:
        list(running.run(asked))
    pairs = {(bucket(len(r)), bucket(len(r) - 1)) for r in rows}
    assert counter.count_of("decode_chunk") == len(running.stats.buckets)
    assert 0 < counter.count_of("admit_rows") <= 2 * len(pairs)
    assert {piece(n, 64) for n in range(1, 65)} == {4, 64}


def test_decoding_copies_no_cache():
    """The compiled loop holds one cache: it is aliased, and temporaries are smaller than it."""
    net = network()
    state = empty_slots(net, 16, 192, 16)
    cache = sum(a.nbytes for a in jax.tree.leaves(state.cache.layers))
    numbers = (jnp.asarray([-1], jnp.int32), jnp.int8(0), jnp.int32(4), jnp.int32(1))
    lowered = decode_chunk.lower(net, state, GREEDY, *numbers)
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes >= cache
    assert memory.temp_size_in_bytes < cache


def test_idle_slots_do_nothing():
    """A chunk with no active row takes no step and changes nothing."""
    net = network()
    state = dataclasses.replace(empty_slots(net, 4, 24, 16), token=jnp.arange(4, dtype=jnp.int32))
    before = jax.tree.map(np.asarray, (state.token, state.made, state.tokens))
    state, steps, busy = decode_chunk(
        net, state, GREEDY, jnp.asarray([-1], jnp.int32), jnp.asarray(0, jnp.int8),
        jnp.int32(9), jnp.int32(1),
    )
    assert int(steps) == int(busy) == 0
    jax.tree.map(np.testing.assert_array_equal, before, (state.token, state.made, state.tokens))
