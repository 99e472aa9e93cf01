"""Resampling of dead latents: who is drawn how often, what a latent becomes, what is forgotten."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.losses import loss
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.resampling import draw_rows, resample, row_losses
from interp_jax.dictionaries.training import (
    TrainState,
    paper_optimiser,
    start,
    train_step,
    warmed_up,
)
from interp_jax.runtime.errors import UserError

pytestmark = pytest.mark.core
D, F, B = 6, 10, 32
RECIPE = Recipe(sparsity=0.2, dead_after=100)
DEAD = np.asarray([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], bool)
OPTIMISER = paper_optimiser(1e-2)


def with_dead(dictionary: Dictionary, dead=DEAD) -> Dictionary:
    silent = jnp.where(jnp.asarray(dead), 100, 99).astype(jnp.int32)
    return Dictionary(dictionary.config, dictionary.arrays() | {"silent_tokens": silent})


def trained(key, **fields):
    """An L1 dictionary after a few steps, so that Adam has moments, with three dead latents."""
    d = sae(D, F, key, activation="relu", transposed=False, **fields)
    x = jax.random.normal(jax.random.fold_in(key, 1), (B, D))
    state = start(d, OPTIMISER)
    step = jax.jit(lambda s: train_step(s, x, RECIPE, OPTIMISER)[0])
    for _ in range(3):
        state = step(state)
    marked = start(with_dead(state.dictionary()), OPTIMISER)
    return TrainState(state.graph, marked.params, marked.counts, state.optimiser, state.step), x


@pytest.mark.parametrize("squared", [False, True])
def test_row_losses_average_to_the_training_loss(fresh_key, squared):
    recipe = Recipe(sparsity=0.3, squared=squared)
    d = crosscoder(2, D, F, fresh_key(), activation="relu")
    x = jax.random.normal(fresh_key(), (B, 2, D))
    each = row_losses(d, x, recipe)
    told, (metrics, _) = loss(d, x, jnp.int32(0), recipe)
    np.testing.assert_allclose(jnp.mean(each), told, rtol=1e-6)
    np.testing.assert_allclose(
        jnp.mean(row_losses(d, x, recipe, "error")), metrics["reconstruction"], rtol=1e-6
    )


def test_rows_are_drawn_by_squared_loss_and_never_twice():
    """First draws: l^2 / sum. Second draws: by what is left. A row without loss never."""
    losses = jnp.asarray([1.0, 2.0, 0.0, 3.0])
    draws = jax.jit(jax.vmap(lambda key: draw_rows(losses, key, 3)[0]))(
        jax.random.split(jax.random.key(0), 20000)
    )
    p = np.asarray([1.0, 4.0, 0.0, 9.0]) / 14
    first = np.bincount(np.asarray(draws[:, 0]), minlength=4) / len(draws)
    np.testing.assert_allclose(first, p, atol=0.015)
    second = np.bincount(np.asarray(draws[:, 1]), minlength=4) / len(draws)
    told = [sum(p[i] * p[j] / (1 - p[i]) for i in (0, 1, 3) if i != j) for j in range(4)]
    np.testing.assert_allclose(second, told, atol=0.015)
    assert np.all(np.sort(np.asarray(draws)) == np.asarray([0, 1, 3]))
    drawn, usable = draw_rows(losses, jax.random.key(1), 9)
    assert drawn.shape == (4,) and int(usable) == 3 and int(drawn[3]) == 2


def test_a_dead_latent_becomes_an_input_and_everything_else_stays(fresh_key):
    state, x = trained(fresh_key())
    before = state.dictionary()
    after, given = jax.jit(lambda s, x, key: resample(s, x, key, RECIPE, OPTIMISER))(
        state, x, fresh_key()
    )
    assert int(given) == 3
    d = after.dictionary()
    for name in ("encoder", "encoder_bias", "decoder", "silent_tokens"):
        np.testing.assert_array_equal(d.array(name)[~DEAD], before.array(name)[~DEAD])
    for name in ("decoder_bias", "k", "threshold"):
        np.testing.assert_array_equal(d.array(name), before.array(name))
    np.testing.assert_array_equal(d.array("encoder_bias")[DEAD], 0)
    np.testing.assert_array_equal(d.array("silent_tokens")[DEAD], 0)
    rows, encoder = np.asarray(d.array("decoder")[DEAD]), np.asarray(d.array("encoder")[DEAD])
    alive = np.linalg.norm(np.asarray(before.array("encoder"))[~DEAD], axis=-1).mean()
    np.testing.assert_allclose(encoder, 0.2 * alive * rows, rtol=1e-5)
    unit = np.asarray(x / jnp.linalg.norm(x, axis=-1, keepdims=True))
    match = rows @ unit.T
    np.testing.assert_allclose(match.max(1), 1, rtol=1e-5)
    assert len(set(match.argmax(1))) == 3  # three different inputs
    # Adam: both moments, at those rows and nowhere else; its count goes on.
    for held in ("mu", "nu"):
        old = optax.tree_utils.tree_get(state.optimiser, held)
        new = optax.tree_utils.tree_get(after.optimiser, held)
        for name in ("encoder", "encoder_bias", "decoder"):
            a, b = (np.asarray(tree[name].get_value()) for tree in (old, new))
            np.testing.assert_array_equal(b[~DEAD], a[~DEAD])
            assert np.any(a[~DEAD]) and not np.any(b[DEAD])
        a, b = (np.asarray(tree["decoder_bias"].get_value()) for tree in (old, new))
        np.testing.assert_array_equal(a, b)
    assert int(optax.tree_utils.tree_get(after.optimiser, "count")) == 3
    assert int(after.step) == int(state.step)
    # And it goes on training.
    step = jax.jit(lambda s: train_step(s, x, RECIPE, OPTIMISER))
    assert np.isfinite(float(step(after)[1]["loss"]))


def test_with_nothing_dead_nothing_changes(fresh_key):
    state, x = trained(fresh_key())
    state = TrainState(
        state.graph, state.params, start(with_dead(state.dictionary(), np.zeros(F, bool)),
                                         OPTIMISER).counts, state.optimiser, state.step,
    )  # fmt: skip
    after, given = resample(state, x, fresh_key(), RECIPE, OPTIMISER)
    assert int(given) == 0
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_more_dead_latents_than_inputs_wait_for_the_next_time(fresh_key):
    state, x = trained(fresh_key())
    after, given = resample(state, x[:2], fresh_key(), RECIPE, OPTIMISER)
    assert int(given) == 2
    np.testing.assert_array_equal(
        after.dictionary().array("silent_tokens")[DEAD], np.asarray([0, 0, 100])
    )


def test_a_centred_dictionary_takes_what_its_encoder_meets(fresh_key):
    state, x = trained(fresh_key(), centred=True)
    x = x + 5.0
    after, _ = resample(state, x, fresh_key(), RECIPE, OPTIMISER)
    seen = x - state.dictionary().array("decoder_bias")
    unit = seen / jnp.linalg.norm(seen, axis=-1, keepdims=True)
    match = after.dictionary().array("decoder")[DEAD] @ unit.T
    np.testing.assert_allclose(jnp.max(match, axis=1), 1, rtol=1e-5)


def test_a_crosscoders_parts_are_scaled_one_by_one(fresh_key):
    d = crosscoder(2, D, F, fresh_key(), activation="relu", tied=False)
    arrays = d.arrays()
    arrays["encoder"] = arrays["encoder"].at[:, D:].multiply(3.0)
    state = start(with_dead(Dictionary(d.config, arrays)), OPTIMISER)
    x = jax.random.normal(fresh_key(), (B, 2, D)) * jnp.asarray([1.0, 7.0])[None, :, None]
    after, given = resample(state, x, fresh_key(), RECIPE, OPTIMISER, encoder_share=0.05)
    assert int(given) == 3
    encoder = after.dictionary().array("encoder").reshape(F, 2, D)[DEAD]
    np.testing.assert_allclose(
        jnp.linalg.norm(encoder, axis=-1), np.tile([0.05, 0.15], (3, 1)), rtol=1e-5
    )
    np.testing.assert_allclose(after.dictionary().decoder_norms().T[DEAD], 1, rtol=1e-5)


def test_others_are_refused(fresh_key):
    state = start(sae(D, F, fresh_key(), k=3), OPTIMISER)
    with pytest.raises(UserError, match="resampling of a batch_topk dictionary"):
        resample(state, jnp.zeros((B, D)), fresh_key(), RECIPE, OPTIMISER)


def test_the_warm_up_starts_anew():
    rate = warmed_up(2.0, 10, restart=30)
    steps = jnp.asarray([0, 5, 10, 29, 30, 35, 59])
    np.testing.assert_allclose(jax.vmap(rate)(steps), [0, 1, 2, 2, 0, 1, 2])
