"""Harvest: what is read is what a full run holds, in every layout, and nothing above is run."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interp_jax as ij
from interp_jax.dictionaries.delta import delta
from interp_jax.dictionaries.fit import fit
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.harvest import (
    Harvest,
    keep_mask,
    layers_needed,
    lower_layers,
    row_shapes,
)
from interp_jax.dictionaries.row_source import HarvestSource, harvest_rows
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.dictionaries.token_streams import RandomTokens

CONFIG = tiny_config("llama")  # three layers, width 32
PAIRS = dataclasses.replace(tiny_config("gemma2"), n_layers=5)  # pairs repeat, one is left over
T = 8


@functools.cache
def network(seed: int = 0, layout="unrolled", config=CONFIG):
    return build_decoder(config, random_parameters(config, seed), layout)


def batch(rows: int = 3):
    read = RandomTokens(CONFIG.vocab_size, T).next(rows)
    return Batch.make(read.tokens, read.valid, roles=read.roles), read


def whole(net, tokens, *sites: str) -> list[np.ndarray]:
    """[B, T, ...] of each site of one layer, from a run of everything."""
    reads = [ij.read(site, name=site) for site in sites]
    _, tape = ij.run(net, tokens, *reads, logits_at="last")
    return [np.asarray(tape[site])[0] for site in sites]


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_rows_are_what_a_full_run_holds(layout):
    tokens, read = batch()
    nets = (network(0, layout, PAIRS), network(1, layout, PAIRS))
    what = Harvest(("resid_post[3,1]", "mlp_out[2]"))
    x = harvest_rows(nets, tokens, what)["x"]
    assert x.shape == (3 * T, 2 * 3, 32) and x.dtype == jnp.float32
    rows = np.asarray(x).reshape(3, T, 6, 32)
    valid = read.valid
    sites = ("resid_post[3]", "resid_post[1]", "mlp_out[2]")
    for n, net in enumerate(nets):
        for place, want in enumerate(whole(net, tokens, *sites)):
            np.testing.assert_allclose(
                rows[:, :, n * 3 + place][valid], want[valid], atol=2e-5, err_msg=sites[place]
            )


def test_rows_stand_in_the_callers_columns():
    """Padding on the left: row b*T + t is the caller's token t."""
    read = RandomTokens(CONFIG.vocab_size, T).next(2)
    left = [np.flip(a, 1) for a in (read.tokens, read.valid)]
    what = Harvest(("resid_post[0]",))
    x = harvest_rows((network(),), Batch.make(*left), what)["x"].reshape(2, T, 32)
    (want,) = whole(network(), Batch.make(*left), "resid_post[0]")
    np.testing.assert_allclose(np.asarray(x)[left[1]], want[left[1]], atol=1e-6)
    mask = keep_mask(Harvest(("embed",), skip_first=2), *left, read.roles)
    assert mask.sum() == sum(max(n - 2, 0) for n in left[1].sum(1))
    assert not mask[~left[1]].any()


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_layers_above_the_last_one_read_are_not_run(layout):
    """Counted by the compiler: the work grows with the layer that is read."""
    tokens, _ = batch()
    config = dataclasses.replace(tiny_config("llama"), n_layers=8)
    net = network(0, layout, config)
    assert layers_needed(net, Harvest(("resid_post[2]", "embed")).sites) == 3
    assert layers_needed(net, Harvest(("embed",)).sites) == 0
    assert layers_needed(net, Harvest(("final_norm",)).sites) == 8
    assert len(lower_layers(net, 3).blocks()) == 3
    if layout == "scanned":  # the compiler counts a loop's body once
        return
    flops = [
        harvest_rows.lower((net,), tokens, Harvest((f"resid_post[{layer}]",)))
        .compile().cost_analysis()["flops"]
        for layer in (0, 3, 7)
    ]  # fmt: skip
    assert flops[1] / flops[0] == pytest.approx(4, rel=0.1)
    assert flops[2] / flops[0] == pytest.approx(8, rel=0.1)


def test_taps_placed_before_act_on_what_is_read():
    tokens, read = batch()
    steer = ij.add("resid_post[1]", np.ones(32, np.float32), strength=3.0)
    what = Harvest(("resid_post[1]",))
    plain = harvest_rows((network(),), tokens, what)["x"][:, 0]
    steered = harvest_rows((steer(network()),), tokens, what)["x"][:, 0]
    np.testing.assert_allclose((steered - plain)[read.valid.reshape(-1)], 3.0, atol=1e-5)


def test_a_transcoders_target_is_another_site():
    tokens, read = batch()
    what = Harvest(("mlp_in[2]",), ("mlp_out[2]",), dtype="bfloat16")
    found = harvest_rows((network(),), tokens, what)
    assert {n: (a.shape, a.dtype.name) for n, a in found.items()} == {
        "x": ((3 * T, 1, 32), "bfloat16"),
        "target": ((3 * T, 1, 32), "bfloat16"),
    }
    want = whole(network(), tokens, "mlp_out[2]")[0].reshape(-1, 32)
    kept = read.valid.reshape(-1)
    got = np.asarray(found["target"][:, 0].astype(jnp.float32))
    np.testing.assert_allclose(got[kept], want[kept], rtol=1e-2, atol=1e-3)
    assert row_shapes((network(),), what)["target"].shape == (1, 32)


def test_heads_lie_side_by_side():
    tokens, _ = batch()
    x = harvest_rows((network(),), tokens, Harvest(("head_out[1]",)))["x"]
    assert x.shape == (3 * T, 1, CONFIG.n_heads * CONFIG.head_dim)


def test_keep_mask_by_hand():
    what = Harvest(("embed",), skip_first=1, exclude_tokens=(7,), exclude_roles=(roles.TEMPLATE,))
    tokens = np.array([[1, 7, 3, 4, 5], [7, 2, 7, 9, 0]], np.int32)
    valid = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    role = np.array([[0, 0, 2, 0, 0], [0, 1, 0, 0, 2]], np.int8)
    want = [[0, 0, 0, 1, 0], [0, 1, 0, 1, 0]]
    np.testing.assert_array_equal(keep_mask(what, tokens, valid, role), want)
    traced = jax.jit(lambda *a: keep_mask(what, *a))(tokens, valid, role)
    np.testing.assert_array_equal(traced, want)


def test_template_tokens_are_replaced_for_the_first_network_only():
    tokens, _ = batch()
    what = Harvest(("embed",), replace_tokens=((1, 2),))
    x = harvest_rows((network(), network()), tokens, what)["x"].reshape(3, T, 2, 32)
    table = network().embed * jnp.float32(CONFIG.embed_scale)
    np.testing.assert_allclose(x[:, 0, 0], jnp.broadcast_to(table[2], (3, 32)), rtol=1e-6)
    np.testing.assert_allclose(x[:, 0, 1], jnp.broadcast_to(table[1], (3, 32)), rtol=1e-6)


def test_spread_over_devices_the_rows_are_the_same():
    what = Harvest(("resid_post[2]",))
    mesh = make_mesh("data:4,model:2")
    one = HarvestSource((network(),), RandomTokens(101, T), what, 4, T)
    cut = HarvestSource((network(),), RandomTokens(101, T), what, 4, T, mesh)
    a, b = one.next(), cut.next()
    np.testing.assert_array_equal(a.keep, b.keep)
    np.testing.assert_allclose(a.rows["x"][a.keep], b.rows["x"][a.keep], atol=1e-5)
    cut.seek(one.cursor())
    np.testing.assert_array_equal(one.next().keep, cut.next().keep)


def test_the_source_says_what_is_wrong_with_a_stream():
    what = Harvest(("resid_post[2]",))
    with pytest.raises(UserError, match=r"shape \(2, 8\); expected \(2, 9\)"):
        HarvestSource((network(),), RandomTokens(101, T), what, 2, 9).next()
    with pytest.raises(UserError, match="token 1[0-9][0-9]; expected ids below 101"):
        HarvestSource((network(),), RandomTokens(199, T), what, 8, T).next()


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(sites=()), "no sites"),
        (dict(sites=("attn_weights[0]",)), "site attn_weights"),
        (dict(sites=("logits",)), "site logits"),
        (dict(sites=("resid_post[99]",)), "layers .99."),
        (dict(sites=("resid_post[0]", "mlp_hidden[0]")), "widths .32, 40."),
    ],
)
def test_what_cannot_be_harvested(fields, said):
    with pytest.raises(UserError, match=said):
        row_shapes((network(),), Harvest(**fields))


def test_a_model_against_itself_through_the_whole_pipe():
    """Harvest, ring and training: equal networks and tied initialisation leave Delta at 0.5."""
    c = FitConfig(
        kind="crosscoder", layers=(2,), other_model="itself", latents=64, k=4, ring_rows=128,
        batch_size=16, context=T, rows_at_once=4, steps=12, lr=1e-2, warm_up=3, threshold_start=2,
        eval_rows=0, exclude_bos=True,
    )  # fmt: skip
    what = c.harvest(CONFIG.n_layers, bos=1)
    assert what == Harvest(("resid_post[2]",), exclude_tokens=(1,))
    twice = (network(), network())
    source = HarvestSource(twice, RandomTokens(101, T), what, c.rows_at_once, c.context)
    found = fit(c, source)
    (d,) = found.dictionaries
    np.testing.assert_array_equal(delta(d.decoder_norms()), 0.5)
    np.testing.assert_array_equal(d.decoder_rows()[:, 0], d.decoder_rows()[:, 1])
    assert np.abs(d.array("decoder_bias")).max() > 0.01 and found.measures == ({},)
