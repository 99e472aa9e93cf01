"""A shared prefix: held once, cut anywhere, and the same numbers as whole prompts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.generation.prefixes import at_cut, counts_from_end, fingerprint, make_prefix
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import add, read, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.runtime.errors import UserError
from tests.generation.samples import WARM, by_item, engine, network, same

TRACE = np.random.default_rng(0).integers(3, 101, 30).astype(np.int32)
CUTS = (1, 5, 12, 17, 29, 30)
NEAR = (10, 12, 16, 17)  # whole prompts of one bucket and one width
KEYS = jax.random.split(jax.random.key(3), 64)


def _edit(strength=0.6):
    return compose(
        add("resid_post[0]", jnp.linspace(-1.0, 1.0, 32), strength=strength),
        suppress_attention(Where(spans=[[2, 4]]), layers=(1,)),
    )


def _sharing(prefix, cuts, budget=7):
    asked = []
    for item, cut in enumerate(cuts):
        tokens, roles, start = at_cut(prefix, cut)
        asked.append(Request(tokens, KEYS[item], budget, roles, start, item))
    return asked


def _whole(cuts, budget=7):
    return [Request(TRACE[:cut], KEYS[i], budget, item=i) for i, cut in enumerate(cuts)]


def test_any_cut_equals_the_whole_prompt_under_interventions():
    """Gemma 3 brings windows that end inside the prefix."""
    net, edit = network("gemma3"), _edit()
    prefix = make_prefix(net, TRACE, interventions=edit)
    shared = engine(net=net, interventions=edit)
    whole = engine(net=net, interventions=edit)
    same(by_item(shared, _sharing(prefix, NEAR), prefix), by_item(whole, _whole(NEAR)), 5e-5)
    assert list(shared.stats.buckets) == [(16, 4)]  # one own token and a budget of 7


def test_scanned_equals_unrolled_with_a_prefix():
    got = []
    for layout in ("unrolled", "scanned"):
        net = network("llama", layout)
        prefix = make_prefix(net, TRACE)
        got.append(by_item(engine(net=net), _sharing(prefix, CUTS), prefix))
    same(*got)
    same(got[0], by_item(engine(), _whole(CUTS)))


def test_bfloat16_prefix_equals_the_whole_prompt():
    """Greedy tokens could flip within rounding; the draws' log-probabilities may not part."""
    net = network(dtype="bfloat16")
    params = SamplingParams.make(1.0)
    prefix = make_prefix(net, TRACE)
    shared = by_item(engine(params, net=net), _sharing(prefix, NEAR, 1), prefix)
    whole = by_item(engine(params, net=net), _whole(NEAR, 1))
    equal = [i for i in shared if shared[i].tokens[0] == whole[i].tokens[0]]
    assert len(equal) >= len(NEAR) - 1
    for item in equal:
        assert abs(shared[item].log_probs[0] - whole[item].log_probs[0]) < 0.05


def test_own_tokens_after_a_cut():
    """A row may go on with tokens of its own: they are run on top of the shared part."""
    own = np.array([50, 60, 70, 80], np.int32)
    prefix = make_prefix(network(), TRACE)
    shared = [Request(own, KEYS[i], 7, cut=cut, item=i) for i, cut in enumerate((8, 11, 12))]
    whole = [
        Request(np.concatenate([TRACE[:cut], own]), KEYS[i], 7, item=i)
        for i, cut in enumerate((8, 11, 12))
    ]
    same(by_item(engine(), shared, prefix), by_item(engine(), whole))


def test_cache_is_the_prefix_once_and_a_suffix_for_each_row():
    """Counted on the arrays that exist, for 4 and for 16 rows."""
    config = network().config
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 4
    prefix = make_prefix(network(), TRACE)
    held = sum(a.nbytes for a in jax.tree.leaves(prefix.prefix.layers))
    assert held == prefix.nbytes == 64 * token
    from interp_jax.generation.slots import empty_slots

    for rows in (4, 16):
        state = empty_slots(network(), rows, 16, 16, prefix=prefix.prefix)
        suffix = sum(a.nbytes for a in jax.tree.leaves(state.cache.layers))
        assert suffix == rows * 16 * token
        everything = (state.cache.layers, prefix.prefix.layers, state.cache.prefix.layers)
        leaves = {id(a): a.nbytes for a in jax.tree.leaves(everything)}
        assert sum(leaves.values()) == held + suffix  # the state holds the prefix's own arrays
    running = engine()
    by_item(running, _sharing(prefix, CUTS), prefix)
    assert running.stats.cache_bytes == held + 4 * 16 * token


def test_a_prefix_serves_many_runs_and_slot_sizes():
    """Buffers that others hold are not given away: the second run and bucket find them whole."""
    prefix = make_prefix(network(), TRACE)
    asked = _sharing(prefix, CUTS)
    longer = [dataclasses.replace(r, budget=r.budget + 40, item=100 + r.item) for r in asked]
    first, second = (by_item(engine(), [*asked, *longer], prefix) for _ in range(2))
    same(first, second)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(prefix.prefix))


def test_decoding_does_not_tile_the_prefix():
    """Temporaries of the compiled loop stay below one copy of the prefix per row."""
    from interp_jax.generation.decode import decode_chunk
    from interp_jax.generation.slots import empty_slots

    net, rows = network(), 16
    prefix = make_prefix(net, np.resize(TRACE, 250))
    state = empty_slots(net, rows, 16, 16, prefix=prefix.prefix).without_prefix()
    numbers = (jnp.asarray([-1], jnp.int32), jnp.int8(0), jnp.int32(4), jnp.int32(1))
    lowered = decode_chunk.lower(net, state, WARM, *numbers, prefix.prefix)
    memory = lowered.compile().memory_analysis()
    layer = prefix.nbytes / net.config.n_layers
    assert memory.temp_size_in_bytes < rows * layer / 2


def test_slice_of_a_cache_is_the_cache_of_the_slice():
    long, short = make_prefix(network(), TRACE), make_prefix(network(), TRACE[:12])
    for a, b in zip(*(jax.tree.leaves(p.prefix.sliced(12)) for p in (long, short)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_other_interventions_are_refused():
    prefix = make_prefix(network(), TRACE, interventions=_edit())
    for other in (None, _edit(0.7), add("resid_post[0]", jnp.linspace(-1.0, 1.0, 32))):
        with pytest.raises(UserError, match="other interventions"):
            list(engine(interventions=other).run(_sharing(prefix, CUTS), prefix))
    assert fingerprint(_edit()) == fingerprint(_edit())
    assert len({fingerprint(_edit(s)) for s in (0.1, 0.2, 0.3)}) == 3


def test_positions_from_the_end_need_the_same_end():
    """A shorter prompt's last token is another token: the shared cache would be wrong."""
    edit = add("resid_post[0]", jnp.ones(32), where=Where(positions=[-2]))
    hidden = add("resid_post[0]", jnp.ones(32), where=Where(exclude=Where(spans=[[0, -3]])))
    assert counts_from_end(compose(edit)) and counts_from_end(hidden)
    assert not counts_from_end(_edit())
    prefix = make_prefix(network(), TRACE, interventions=edit)
    with pytest.raises(UserError, match="counted from the end"):
        list(engine(interventions=edit).run(_sharing(prefix, (12,)), prefix))
    running = engine(interventions=edit)
    got = by_item(running, _sharing(prefix, (30,)), prefix)
    same(got, by_item(engine(interventions=edit), _whole((30,))))
    assert prefix.tape[f"touched/{edit.name}"].tolist() == [1]


def test_per_row_interventions_and_bad_cuts_are_refused():
    prefix = make_prefix(network(), TRACE)
    asked = _sharing(prefix, CUTS)
    with pytest.raises(UserError, match="per-row"):
        list(engine(per_row=lambda items: _edit()).run(asked, prefix))
    for cut in (0, 31):
        with pytest.raises(UserError, match="cut"):
            at_cut(prefix, cut)
    with pytest.raises(UserError, match="cut"):
        list(engine().run(asked))
    with pytest.raises(UserError, match="context"):
        make_prefix(network(), np.resize(TRACE, 257))


def test_repetition_penalty_sees_the_prefix_up_to_the_cut():
    params = SamplingParams.make(0.8, repetition_penalty=2.5)
    prefix = make_prefix(network(), TRACE)
    got = by_item(engine(params), _sharing(prefix, NEAR), prefix)
    same(got, by_item(engine(params), _whole(NEAR)))
    plain = by_item(engine(SamplingParams.make(0.8)), _whole(NEAR))
    assert any((got[i].tokens != plain[i].tokens).any() for i in got)


def test_counts_of_prefix_and_rows_make_the_whole():
    """The prefix's pass counts its own tokens, a row counts what it feeds."""
    edit = compose(add("resid_post[0,1]", jnp.ones(32)), read("resid_post[1]", name="seen"))
    prefix = make_prefix(network(), TRACE[:-1], interventions=edit, length=30)
    asked = [Request(TRACE[-1:], KEYS[0], 7, cut=29)]
    sample = by_item(engine(interventions=edit), asked, prefix)[0]
    for name, layers in (("add:resid_post[0,1]", 2), ("seen", 1)):
        rows = int(sample.tape[f"touched/{name}"]), int(prefix.tape[f"touched/{name}"][0])
        assert rows == (7 * layers, 29 * layers)
