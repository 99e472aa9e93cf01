"""Oracle 15: the sparse path gives the loss and every gradient of the dense one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.losses import loss
from interp_jax.dictionaries.recipe import Recipe, quickest
from interp_jax.dictionaries.sparse import decode_at, decode_rows, held
from interp_jax.dictionaries.sparse_rows import both_ways, lists_of_rows
from interp_jax.dictionaries.training import split
from interp_jax.runtime.errors import UserError

pytestmark = pytest.mark.core
D, F, B, K = 6, 32, 13, 3


def make(key, kind: str) -> tuple[Dictionary, jax.Array]:
    few_dead = jnp.where(jnp.arange(F) % 7 == 0, 10_000_000, 0).astype(jnp.int32)
    x = jax.random.normal(key, (B, 2, D) if kind == "crosscoder" else (B, D))
    d = {
        "crosscoder": lambda: crosscoder(2, D, F, key, k=K),
        "centred": lambda: sae(D, F, key, k=K, centred=True, code_norm="sae"),
        "topk": lambda: sae(D, F, key, k=K, activation="topk"),
        "matryoshka": lambda: sae(D, F, key, k=K, prefixes=(8, F)),
    }[kind]()
    bias = 0.1 * jax.random.normal(key, d.array("decoder_bias").shape)
    return Dictionary(d.config, d.arrays() | {"silent_tokens": few_dead, "decoder_bias": bias}), x


@pytest.mark.parametrize("kind", ["crosscoder", "centred", "topk", "matryoshka", "heavy"])
def test_same_loss_and_gradients(fresh_key, kind):
    d, x = make(fresh_key(), "crosscoder" if kind == "heavy" else kind)
    if kind == "heavy":  # one row takes nearly all that is kept
        x = x.at[4].multiply(100.0)
    graph, params, counts = split(d)

    def both(params, recipe):
        of = lambda p: loss(nnx.merge(graph, p, counts), x, jnp.int32(0), recipe)
        return jax.value_and_grad(of, has_aux=True)(params)

    sparse = Recipe(decode="sparse", most_k=K + 1)
    (a, (metrics_a, seen_a)), grad_a = jax.jit(both)(params, Recipe())
    (b, (metrics_b, seen_b)), grad_b = jax.jit(both)(params, sparse)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for name in metrics_a:
        np.testing.assert_allclose(metrics_a[name], metrics_b[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen_a.fired, seen_b.fired)
    np.testing.assert_allclose(seen_a.smallest, seen_b.smallest, rtol=1e-6)
    assert float(metrics_a["auxiliary"]) > 0
    for name in grad_a:
        g, h = grad_a[name].get_value(), grad_b[name].get_value()
        assert np.any(g), name
        np.testing.assert_allclose(g, h, atol=1e-5 * float(jnp.max(jnp.abs(g))), err_msg=name)


def test_a_sweep_equals_its_dictionaries_one_by_one(fresh_key):
    """Under `vmap` loops over pairs and the choice of a search are made in turn."""
    d, x = make(fresh_key(), "crosscoder")
    graph, params, counts = split(d)
    recipe = Recipe(decode="sparse", most_k=5)

    def gradient(factor, k):
        def of(factor):
            scaled = jax.tree.map(lambda array: array * factor, params)
            of_k = jax.tree.map(lambda array: array, counts)
            of_k["k"] = counts["k"].replace(k)
            return loss(nnx.merge(graph, scaled, of_k), x, jnp.int32(0), recipe)[0]

        return jax.value_and_grad(of)(factor)

    factors, ks = jnp.array([0.7, 1.0, 1.3]), jnp.array([2, 3, 5])
    together = jax.jit(jax.vmap(gradient))(factors, ks)
    alone = [jax.jit(gradient)(f, k) for f, k in zip(factors, ks, strict=True)]
    for a, b in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(a, jnp.stack(b), rtol=1e-5)


def test_padding_has_no_gradient_and_adds_nothing(fresh_key):
    table = jax.random.normal(fresh_key(), (F, D))
    latents = jax.random.randint(fresh_key(), (B, 11), 0, F)
    values = jnp.where(jax.random.uniform(fresh_key(), (B, 11)) < 0.6, 1.5, 0.0)
    weight = jax.random.normal(fresh_key(), (B, D))
    dense = jnp.zeros((B, F)).at[jnp.arange(B)[:, None], latents].add(values)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for rows in (1, 4):
        close(decode_rows(values, latents, table, rows), dense @ table)
    lists = lists_of_rows(latents, held(values))
    pairs = both_ways(lists, F)
    of = lambda v, t: jnp.sum(weight * decode_at(v.reshape(-1), pairs, t))
    by_value, by_table = jax.jit(jax.grad(of, (0, 1)))(values, table)
    products = jnp.einsum("bd,bcd->bc", weight, table[latents])
    close(by_value, jnp.where(values != 0, products, 0.0))
    close(by_table, dense.T @ weight)


@pytest.mark.parametrize("latents", [1, F, 2**26])
def test_pairs_listed_by_latent_are_the_same_pairs(fresh_key, latents):
    """Whether latent and place fit into one number of 32 bits, or, at 26 and 7, do not."""
    rows, capacity = 8, 11
    index = jax.random.randint(fresh_key(), (rows, capacity), 0, latents)
    counts = jax.random.randint(fresh_key(), (rows,), 0, capacity + 1).at[3].set(0)
    pairs = jax.jit(both_ways, static_argnums=1)(lists_of_rows(index, counts), latents)
    by_row, by_latent, order = jax.device_get(pairs)
    row_of = np.repeat(np.arange(rows), capacity)
    total = int(counts.sum())
    assert len(set(order[:total])) == total and (order[total:] == rows * capacity).all()
    there = np.arange(capacity) < np.asarray(counts)[:, None]
    expected = sorted(
        (int(latent), place)
        for place, (latent, here) in enumerate(zip(index.ravel(), there.ravel(), strict=True))
        if here
    )
    used = np.flatnonzero(by_latent.counts)
    listed = [
        (int(latent), int(order[at]))
        for latent in used
        for at in by_latent.starts[latent] + np.arange(by_latent.counts[latent])
    ]
    assert listed == expected
    for at, (_, place) in enumerate(listed):
        assert by_latent.index[at] == row_of[place]


def test_a_larger_k_than_there_is_room_for_is_cut(fresh_key):
    d, x = make(fresh_key(), "crosscoder")
    _, (metrics, _) = jax.jit(loss)(d, x, jnp.int32(0), Recipe(decode="sparse", most_k=2))
    assert float(metrics["l0"]) == 2


def test_where_the_search_begins_leaves_the_dense_path_exact(fresh_key):
    d, x = make(fresh_key(), "crosscoder")
    a, _ = jax.jit(loss)(d, x, jnp.int32(0), Recipe())
    for most in (1, K, 16):
        b, _ = jax.jit(loss)(d, x, jnp.int32(0), Recipe(most_k=most))
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_no_sparse_path_where_codes_are_not_sparse(fresh_key):
    d = sae(D, F, fresh_key(), activation="relu")
    with pytest.raises(UserError, match="sparse"):
        loss(d, jnp.ones((B, D)), jnp.int32(0), Recipe(decode="sparse"))


def test_what_is_quickest():
    assert quickest(16384, 100, "cpu") == {"decode": "sparse", "most_k": 112}
    assert quickest(3072, 100, "cpu")["decode"] == "dense"
    assert quickest(16384, 100, "gpu") == {"decode": "dense", "most_k": None}
