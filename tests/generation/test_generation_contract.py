"""What generation promises: independent samples, shared prefixes, refilling, honest counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.generation.engine import Engine
from interp_jax.generation.prefixes import at_cut, make_prefix
from interp_jax.generation.requests import Request, bucket
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.verbs import add, read
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import random_parameters, tiny_config

CONFIG = dataclasses.replace(tiny_config("llama"), max_context=128)
NETWORK = build_decoder(CONFIG, random_parameters(CONFIG, 0), "scanned")
VECTOR = jnp.linspace(-1.0, 1.0, CONFIG.width)
STEER = add("resid_post[1]", VECTOR, strength=0.5)
NUCLEUS = SamplingParams.make(0.8, top_p=0.9)


def requests(count=9, seed=0, shared_length=None):
    rng = np.random.default_rng(seed)
    made = []
    for item in range(count):
        length = shared_length or int(rng.integers(1, 12))
        tokens = rng.integers(3, CONFIG.vocab_size, length)
        key = jax.random.fold_in(jax.random.key(seed), item)
        made.append(Request(tokens, key, 4 + item % 4, item=item))
    return made


def samples(engine, asked, prefix=None):
    return {s.item: s for s in engine.run(asked, prefix)}


def test_a_sample_does_not_depend_on_batch_size_order_or_neighbours():
    asked = requests()
    wide = samples(Engine(NETWORK, NUCLEUS, interventions=STEER, batch_size=4), asked)
    alone = samples(Engine(NETWORK, NUCLEUS, interventions=STEER, batch_size=1), asked[::-1][:4])
    for item, sample in alone.items():
        assert sample.tokens.tolist() == wide[item].tokens.tolist()
        np.testing.assert_allclose(sample.log_probs, wide[item].log_probs, atol=2e-5)


def test_greedy_is_the_argmax_of_plain_forward_passes_and_counts_add_up():
    request = requests(1, seed=3)[0]
    engine = Engine(
        NETWORK, SamplingParams.make(0.0, with_model_log_prob=True), interventions=STEER
    )
    (sample,) = engine.run([request])
    whole = np.concatenate([request.tokens, sample.tokens])
    logits, _ = jax.jit(lambda n, b: n(b))(STEER(NETWORK), Batch.make(whole[None]))
    after = np.asarray(logits)[0, len(request.tokens) - 1 : -1]
    assert after.argmax(-1).tolist() == sample.tokens.tolist()
    expected = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(after)), sample.tokens[:, None], 1
    )[:, 0]
    np.testing.assert_allclose(sample.model_log_probs, expected, atol=1e-4)
    # The last sampled token is never fed, so it is not touched.
    assert int(sample.tape["touched/add:resid_post[1]"]) == len(whole) - 1


def test_a_shared_prefix_is_the_whole_prompt_held_once():
    base = np.random.default_rng(1).integers(3, CONFIG.vocab_size, 30)
    prefix = make_prefix(NETWORK, base, interventions=STEER)
    cuts = [5, 12, 30, 17]
    shared, whole = [], []
    for item, cut in enumerate(cuts):
        key = jax.random.fold_in(jax.random.key(7), item)
        tokens, roles, before = at_cut(prefix, cut)
        shared.append(Request(tokens, key, 6, roles, before, item))
        whole.append(Request(base[:cut], key, 6, item=item))
    engine = Engine(NETWORK, NUCLEUS, interventions=STEER, batch_size=4)
    one = samples(engine, shared, prefix)
    other = samples(Engine(NETWORK, NUCLEUS, interventions=STEER, batch_size=4), whole)
    for item in one:
        assert one[item].tokens.tolist() == other[item].tokens.tolist()
        np.testing.assert_allclose(one[item].log_probs, other[item].log_probs, atol=2e-5)
    # Prefix once + n x suffix, in bytes of real arrays.
    of_a_token = 2 * CONFIG.n_layers * CONFIG.n_kv_heads * CONFIG.head_dim * 4
    suffix = bucket(1 + 6)
    assert prefix.nbytes == bucket(len(base), 64) * of_a_token
    assert engine.stats.cache_bytes == prefix.nbytes + 4 * suffix * of_a_token


def test_a_prefix_made_under_other_interventions_is_refused():
    prefix = make_prefix(NETWORK, np.arange(3, 20), interventions=STEER)
    tokens, roles, cut = at_cut(prefix, 4)
    request = Request(tokens, jax.random.key(0), 2, roles, cut)
    other = add("resid_post[1]", VECTOR, strength=0.25)
    with pytest.raises(UserError, match="other interventions"):
        list(Engine(NETWORK, NUCLEUS, interventions=other).run([request], prefix))


def test_slots_are_refilled_at_once_and_stay_busy():
    rng = np.random.default_rng(5)
    asked = [
        Request([3], jax.random.fold_in(jax.random.key(2), item), int(rng.integers(2, 15)),
                item=item)
        for item in range(300)
    ]  # fmt: skip
    engine = Engine(NETWORK, SamplingParams.make(1.0), batch_size=32)
    order = [s.item for s in engine.run(asked)]
    assert sorted(order) == list(range(300))
    assert engine.stats.busy_while_waiting >= 0.9
    # Waves would take the longest budget each: 10 waves of 14 steps.
    total = sum(r.budget for r in asked)
    assert engine.stats.steps < 1.25 * total / 32
    assert len(engine.stats.buckets) == 1


def test_a_bucket_follows_from_the_rows_own_prompt_and_budget():
    asked = [
        Request(np.arange(3, 3 + length), jax.random.key(length), budget, item=item)
        for item, (length, budget) in enumerate([(4, 4), (40, 4), (4, 40)])
    ]
    engine = Engine(NETWORK, SamplingParams.make(1.0), batch_size=4)
    list(engine.run(asked))
    assert sorted(slots for slots, _ in engine.stats.buckets) == [16, 48]


def test_stop_tokens_end_a_row_and_budgets_do():
    asked = requests(6, seed=11)
    free = samples(Engine(NETWORK, NUCLEUS, batch_size=2), asked)
    stop = int(free[5].tokens[1])
    ended = samples(Engine(NETWORK, NUCLEUS, batch_size=2, stop_tokens=[stop]), asked)
    for item, sample in ended.items():
        full = free[item].tokens.tolist()
        cut = full.index(stop) + 1 if stop in full else len(full)
        assert sample.tokens.tolist() == full[:cut]
        assert sample.finish == ("stop" if stop in full else "length")
    assert ended[5].finish == "stop"


def test_each_row_can_have_its_own_vector():
    asked = requests(4, seed=4, shared_length=5)
    vectors = jax.random.normal(jax.random.key(9), (4, CONFIG.width))
    greedy = SamplingParams.make(0.0)
    rowwise = samples(
        Engine(
            NETWORK, greedy, batch_size=2,
            per_row=lambda items: add("resid_post[0]", vectors[jnp.asarray(items)]),
        ),
        asked,
    )
    for request in asked:
        own = add("resid_post[0]", vectors[request.item])
        (solo,) = Engine(NETWORK, greedy, interventions=own).run([request])
        assert solo.tokens.tolist() == rowwise[request.item].tokens.tolist()


@pytest.mark.parametrize("keep", ["last", "sum", "per_token"])
def test_reads_while_decoding_are_those_of_a_forward_pass(keep):
    request = requests(1, seed=8)[0]
    look = read("resid_post[0,2]", name="stream")
    engine = Engine(NETWORK, SamplingParams.make(0.0), interventions=look, keep=keep)
    (sample,) = engine.run([request])
    whole = np.concatenate([request.tokens, sample.tokens])
    _, tape = jax.jit(lambda n, b: n(b, logits_at="none"))(look(NETWORK), Batch.make(whole[None]))
    fed = np.asarray(tape["stream"])[:, 0, len(request.tokens) - 1 : -1]
    got = sample.tape["stream"]
    if keep == "per_token":
        np.testing.assert_allclose(
            np.moveaxis(got[: len(sample.tokens), :, 0], 0, 1), fed, atol=1e-4
        )
    else:
        want = fed[:, -1] if keep == "last" else fed.sum(axis=1)
        np.testing.assert_allclose(got[:, 0], want, atol=1e-4)


def test_a_sweep_compiles_nothing_new(compile_counter):
    asked = requests(3, seed=2, shared_length=5)

    def once(temperature, strength):
        edit = add("resid_post[1]", VECTOR, strength=jnp.float32(strength))
        engine = Engine(
            NETWORK, SamplingParams.make(temperature), interventions=edit, batch_size=4
        )
        return list(engine.run(asked))

    once(0.7, 0.5)
    with compile_counter() as counter:
        once(0.9, -2.0)
    assert counter.count == 0, counter.names


def test_refusals():
    long = Request(np.arange(120) % 90 + 3, jax.random.key(0), 64)
    with pytest.raises(UserError, match="context"):
        list(Engine(NETWORK, NUCLEUS).run([long]))
    with pytest.raises(UserError, match="at least one token"):
        Request(np.zeros(0, np.int32), jax.random.key(0), 4)
    with pytest.raises(UserError, match="max_new_tokens"):
        Request([3], jax.random.key(0), 0)
    with pytest.raises(UserError, match="batch_size"):
        Engine(NETWORK, NUCLEUS, batch_size=0)
