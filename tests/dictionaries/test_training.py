"""Training: the null of two equal models, logging, sweeps under vmap, devices, thresholds."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from interp_jax.dictionaries.build import crosscoder, sae, start_bias
from interp_jax.dictionaries.config import axis_letters
from interp_jax.dictionaries.delta import class_counts, delta
from interp_jax.dictionaries.losses import loss
from interp_jax.dictionaries.metrics import evaluate, summary
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import (
    clip_by_global_norm,
    paper_optimiser,
    start,
    train_step,
    warmed_up,
)
from interp_jax.runtime.mesh import make_mesh, named_sharding

pytestmark = pytest.mark.core
D, F, B, K = 8, 32, 32, 3


def features(key, rows: int, width: int = D, count: int = 16) -> jax.Array:
    """Rows that are sparse sums of fixed unit directions, [rows, width]."""
    directions = jax.random.normal(jax.random.key(7), (count, width))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    on, size = jax.random.split(key)
    active = jax.random.bernoulli(on, 3 / count, (rows, count))
    sizes = jax.random.uniform(size, (rows, count), minval=0.5, maxval=1.5)
    return jnp.where(active, sizes, 0.0) @ directions


@pytest.mark.parametrize(
    "activation, decode", [("relu", "dense"), ("batch_topk", "dense"), ("batch_topk", "sparse")]
)
def test_equal_models_share_every_latent_exactly(fresh_key, activation, decode):
    """Oracle 5: with tied initialisation decoders stay bit-equal and Delta is 0.5."""
    one = features(fresh_key(), B)
    x = jnp.stack([one, one], axis=1)
    optimiser = paper_optimiser(1e-2)
    recipe = Recipe(sparsity=0.1, dead_after=100, threshold_start=5, decode=decode)
    first = start_bias(crosscoder(2, D, F, fresh_key(), k=K, activation=activation), x)
    after, metrics = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: train_step(s, x, recipe, optimiser), s, length=40)
    )(start(first, optimiser))
    d = after.dictionary()
    rows = np.asarray(d.decoder_rows())
    assert not np.allclose(rows, np.asarray(first.decoder_rows()))  # it has learnt
    assert metrics["reconstruction"][-1] < metrics["reconstruction"][0]
    assert activation == "relu" or metrics["auxiliary"].max() > 0
    np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
    np.testing.assert_array_equal(delta(d.decoder_norms()), 0.5)
    counts = class_counts(delta(d.decoder_norms()), jnp.arange(F) < 10)
    assert {n: int(c) for n, c in counts.items() if c} == {"shared": F, "shared_alive": 10}


def test_threshold_mode_has_the_sparsity_it_was_trained_with(fresh_key):
    """Oracle 7, on held-out rows of the same distribution; a logging call changes nothing.

    The rate falls to zero, so that the moving average does not lag behind the weights, and the
    rows are so many that their own number of active features is known to a third of a percent.
    """
    optimiser = paper_optimiser(warmed_up(5e-3, 50, decay_from=250, end=500))
    recipe = Recipe(threshold_start=200, threshold_decay=0.98)
    state = start(sae(D, F, fresh_key(), k=K), optimiser)
    data = jax.vmap(lambda key: features(key, 256))(jax.random.split(fresh_key(), 500))
    run = jax.jit(lambda s, d: jax.lax.scan(lambda s, x: train_step(s, x, recipe, optimiser), s, d))
    state, metrics = run(state, data)
    np.testing.assert_array_equal(metrics["l0"], K)
    assert int(state.step) == 500
    before = jax.tree.map(np.asarray, state)
    held_out = features(fresh_key(), 32768)
    logged, _ = jax.jit(loss)(state.dictionary(), held_out, state.step, recipe)
    found = summary(jax.jit(evaluate)(state.dictionary(), held_out))
    assert np.isfinite(logged)
    assert abs(float(found["l0"]) / K - 1) < 0.02
    assert float(found["fve"]) > 0.8
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, state))


def test_a_sweep_compiles_once_and_equals_single_runs(fresh_key, compile_counter):
    """k, coefficients and seeds are traced: several dictionaries train under one vmap."""
    optimiser = paper_optimiser(1e-2)
    keys = jax.random.split(fresh_key(), 3)
    singles = [
        start(sae(D, F, key, k=k), optimiser) for key, k in zip(keys, (1, 3, 5), strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    recipes = Recipe(auxiliary=jnp.array([0.0, 0.1, 0.2]), dead_after=40)
    axes = dataclasses.replace(jax.tree.map(lambda _: None, Recipe(dead_after=40)), auxiliary=0)
    x = features(fresh_key(), B)
    many = jax.jit(jax.vmap(lambda s, r: train_step(s, x, r, optimiser), in_axes=(0, axes)))
    one = jax.jit(lambda s, r: train_step(s, x, r, optimiser))
    stacked, metrics = many(stacked, recipes)
    one(singles[0], Recipe(auxiliary=jnp.float32(0.5), dead_after=40))
    with compile_counter() as counter:
        stacked, metrics = many(stacked, recipes)
    assert counter.count == 0
    np.testing.assert_array_equal(metrics["l0"], [1, 3, 5])
    for i, single in enumerate(singles):
        recipe = Recipe(auxiliary=recipes.auxiliary[i], dead_after=40)
        for _ in range(2):
            single, alone = one(single, recipe)
        np.testing.assert_allclose(metrics["loss"][i], alone["loss"], rtol=1e-5)
        np.testing.assert_allclose(
            stacked.params["decoder"].get_value()[i],
            single.params["decoder"].get_value(),
            atol=1e-5,
        )


def test_sharded_over_latents_equals_one_device(fresh_key):
    """Oracle 15: rows over `data`, latents over `model`; optimiser state is cut with them."""
    optimiser = paper_optimiser(1e-2)
    recipe = Recipe(dead_after=40)
    x = jnp.stack([features(fresh_key(), B), features(fresh_key(), B)], axis=1)
    state = start(crosscoder(2, D, F, fresh_key(), k=K), optimiser)
    mesh = make_mesh("data:2,model:4")

    def place(path, leaf):
        names = [str(getattr(part, "key", getattr(part, "name", ""))) for part in path]
        known = [n for n in names if n in ("encoder", "decoder", "encoder_bias", "silent_tokens")]
        letters = axis_letters(known[0]) if known else "LLL"[: leaf.ndim]
        return jax.device_put(leaf, named_sharding(letters, mesh))

    cut = jax.tree_util.tree_map_with_path(place, state)
    step = jax.jit(lambda s, x: train_step(s, x, recipe, optimiser))
    rows = jax.device_put(x, named_sharding("BLD", mesh))
    for _ in range(3):
        state, alone = step(state, x)
        cut, together = step(cut, rows)
    assert cut.params["decoder"].get_value().sharding.spec[0] == "model"
    for name in alone:
        np.testing.assert_allclose(alone[name], together[name], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, cut)


def test_bfloat16_factors_keep_float32_weights(fresh_key):
    d = sae(D, F, fresh_key(), k=K, matmul_dtype="bfloat16")
    full = nnx.merge(*nnx.split(d))
    x = features(fresh_key(), B)
    assert d.array("encoder").dtype == jnp.float32
    a, b = d(x), sae(D, F, fresh_key(), k=K)(x)
    assert a.dtype == b.dtype == jnp.float32
    np.testing.assert_array_equal(a, full(x))


def test_learning_rate():
    rate = warmed_up(2.0, 10, decay_from=20, end=30)
    steps = jnp.array([0.0, 5.0, 10.0, 20.0, 25.0, 30.0])
    np.testing.assert_allclose(jax.vmap(rate)(steps), [0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("limit", [0.1, 100.0])
def test_the_gradient_is_clipped_as_optax_clips(fresh_key, limit):
    a, b = jax.random.normal(fresh_key(), (3, 4)), jax.random.normal(fresh_key(), (5,))
    gradient = {"a": a, "b": b}
    for tree in (gradient, jax.tree.map(jnp.zeros_like, gradient)):
        found, expected = (
            of(limit).update(tree, of(limit).init(tree))[0]
            for of in (clip_by_global_norm, optax.clip_by_global_norm)
        )
        for name in tree:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
