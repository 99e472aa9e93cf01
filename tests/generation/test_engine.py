"""The engine: a sample is its own, whatever else is in the batch, and equals a plain forward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.generation.engine import Engine
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import add, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.runtime.errors import UserError
from tests.generation.samples import (
    BUDGETS,
    GREEDY,
    ROWS,
    WARM,
    by_item,
    engine,
    forced,
    log_softmax,
    network,
    prompts,
    requests,
    same,
)


def _edit():
    return compose(
        add("resid_post[1]", jnp.linspace(-1.0, 1.0, 32), strength=0.7),
        suppress_attention(Where(positions=[1]), layers=(1,)),
    )


def _edited(batch_size=4):
    return engine(WARM, batch_size, stop_tokens=[5, 9], interventions=_edit())


def _asked():
    return requests(prompts(), BUDGETS)


@pytest.fixture(scope="module")
def alone():
    """Every request by itself in a single slot."""
    running = _edited(1)
    return {r.item: by_item(running, [r])[r.item] for r in _asked()}


def test_sample_does_not_depend_on_the_batch(alone):
    running = _edited()
    same(by_item(running, _asked()), alone)
    assert running.stats.busy_while_waiting < 1.0 or running.stats.steps > 12  # it was refilled


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(ROWS)), st.integers(1, ROWS))
def test_sample_does_not_depend_on_order_or_neighbours(alone, order, count):
    """Another order is another slot and another refill; fewer requests are other neighbours."""
    asked = _asked()
    got = by_item(_edited(), [asked[item] for item in order[:count]])
    same(got, {item: alone[item] for item in got})


def test_sample_does_not_depend_on_its_bucket(alone):
    """Among short and long rows, prefilled and refilled with them: three buckets."""
    asked = _asked()[:3]
    others = [
        Request(row, jax.random.key(item), budget, item=item)
        for item, row, budget in (
            (20, np.array([7]), 6), (21, prompts(1, seed=1)[0][:3], 4), (22, np.arange(3, 33), 12),
        )
    ]
    running = _edited()
    got = by_item(running, asked + others)
    assert sorted(slots for slots, _ in running.stats.buckets) == [16, 24, 48]
    same({r.item: got[r.item] for r in asked}, {r.item: alone[r.item] for r in asked})


def test_same_bits_with_other_neighbours_in_another_slot():
    """One width and one number of slots: the program is the same, and so are the bits."""
    row, rest = prompts(1, seed=4)[0], prompts(7, seed=5)

    def run_at(rows, item):
        asked = requests(rows)
        asked[item] = Request(row, jax.random.key(7), 12, item=item)
        return by_item(engine(), asked)[item]

    first, later = run_at([row, *rest[:3]], 0), run_at([*rest[::-1][:3], row], 3)
    np.testing.assert_array_equal(first.tokens, later.tokens)
    np.testing.assert_array_equal(first.log_probs, later.log_probs)


def test_keys_decide_the_draw():
    """Without this, a sampler that ignored keys would pass every test of independence."""
    got = by_item(engine(), requests([prompts(1)[0]] * 4))
    assert len({tuple(sample.tokens) for sample in got.values()}) > 1


def test_greedy_is_the_argmax_of_a_full_forward():
    rows = prompts()
    for item, sample in by_item(engine(GREEDY), requests(rows)).items():
        logits, _ = forced(network(), rows[item], sample.tokens)
        np.testing.assert_array_equal(logits.argmax(-1), sample.tokens)
        assert sample.model_log_probs is None  # only on request


def test_log_probs_are_those_of_a_teacher_forced_forward(alone):
    """`model_log_probs` of the model; `log_probs` of its tempered nucleus, worked out here."""
    edited, rows = _edit()(network()), prompts()
    for item, sample in alone.items():
        logits, _ = forced(edited, rows[item], sample.tokens)
        at = np.arange(len(sample.tokens))
        plain, tempered = log_softmax(logits), log_softmax(logits / 0.8)
        np.testing.assert_allclose(sample.model_log_probs, plain[at, sample.tokens], atol=3e-5)
        mass = np.sort(np.exp(tempered), axis=1)[:, ::-1]
        size = (np.cumsum(mass, axis=1) < 0.9).sum(axis=1)
        kept = np.log(np.cumsum(mass, axis=1)[at, size])
        chosen = tempered[at, sample.tokens]
        assert (chosen >= np.log(mass[at, size]) - 1e-5).all()
        np.testing.assert_allclose(sample.log_probs, chosen - kept, atol=3e-5)


def test_scanned_equals_unrolled_equals_forward():
    """Gemma 3: the pattern of six with a remainder of two, windows, both rotations."""
    rows = prompts(4, seed=3)
    unrolled, scanned = (
        by_item(engine(GREEDY, net=network("gemma3", layout)), requests(rows))
        for layout in ("unrolled", "scanned")
    )
    same(unrolled, scanned, tolerance=5e-5)
    for item, row in enumerate(rows):
        logits, _ = forced(network("gemma3", "scanned"), row, scanned[item].tokens)
        np.testing.assert_array_equal(logits.argmax(-1), scanned[item].tokens)


def test_bfloat16_follows_its_own_forward():
    """Log-probabilities on forced tokens, within the rounding of bfloat16 products.

    A single request: it runs in a batch of two.
    """
    net, row = network(dtype="bfloat16"), prompts(1, seed=6)[0]
    running = Engine(net, SamplingParams.make(1.0))
    sample = by_item(running, requests([row]))[0]
    logits, _ = forced(net, row, sample.tokens)
    want = log_softmax(logits)[np.arange(12), sample.tokens]
    np.testing.assert_allclose(sample.log_probs, want, atol=0.05)
    assert list(running.stats.buckets) == [(24, 2)]


def test_stop_tokens_and_budget_end_a_row():
    rows = prompts(4, seed=8)
    free = by_item(engine(GREEDY), requests(rows))
    stop = int(free[0].tokens[3])
    ended = by_item(engine(GREEDY, stop_tokens=[stop]), requests(rows))
    for item, whole in free.items():
        hits = np.flatnonzero(whole.tokens == stop)
        end = hits[0] + 1 if len(hits) else 12
        np.testing.assert_array_equal(ended[item].tokens, whole.tokens[:end])
        assert ended[item].finish == ("stop" if len(hits) else "length")
    assert ended[0].finish == "stop"
    short = by_item(engine(GREEDY), requests(rows, [8, 9, 10, 11]))
    for item, whole in free.items():
        np.testing.assert_array_equal(short[item].tokens, whole.tokens[: 8 + item])


def test_repetition_penalty_sees_prompt_and_own_tokens():
    net, rows = network(), prompts(4, seed=9)
    plain = by_item(engine(GREEDY), requests(rows))
    got = by_item(engine(SamplingParams.make(0.0, repetition_penalty=1.8)), requests(rows))
    assert any((got[i].tokens != plain[i].tokens).any() for i in got)
    for item, sample in got.items():
        logits, _ = forced(net, rows[item], sample.tokens)
        for step, token in enumerate(sample.tokens):
            seen = np.unique(np.concatenate([rows[item], sample.tokens[:step]]))
            row = logits[step].copy()
            row[seen] = np.where(row[seen] < 0, row[seen] * 1.8, row[seen] / 1.8)
            assert token == row.argmax()


def test_per_row_interventions_equal_solo_runs():
    rows = prompts(6, seed=10)
    vectors = jax.random.normal(jax.random.key(1), (6, 32))
    steer = lambda items: add("resid_post[1]", vectors[jnp.asarray(items)])
    got = by_item(engine(per_row=steer), requests(rows))
    plain = by_item(engine(), requests(rows))
    assert any((got[i].tokens != plain[i].tokens).any() for i in got)
    for request in requests(rows):
        own = engine(WARM, 1, interventions=add("resid_post[1]", vectors[request.item]))
        same({request.item: got[request.item]}, by_item(own, [request]))


def test_context_overflow_is_refused():
    row = np.arange(3, 99, dtype=np.int32)
    with pytest.raises(UserError, match="context"):
        list(engine(GREEDY).run(requests([row], 256 - len(row) + 1)))
    with pytest.raises(UserError, match="at least 1"):
        Request(row, jax.random.key(0), 0)
    with pytest.raises(UserError, match="at least one token"):
        Request(row[:0], jax.random.key(0), 1)
    with pytest.raises(UserError, match="batch_size"):
        engine(GREEDY, 0)


def test_a_row_may_fill_its_context_to_the_last_token():
    row = np.resize(prompts(1)[0], 250)
    assert len(by_item(engine(GREEDY, 1), requests([row], 6))[0].tokens) == 6


def test_sample_first_cuts_what_is_per_token():
    sample = by_item(engine(), requests(prompts(4)))[0]
    cut = sample.first(2)
    assert len(cut.tokens) == len(cut.log_probs) == len(cut.model_log_probs) == 2
    assert cut.finish == sample.finish
