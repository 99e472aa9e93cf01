"""Complete shrinkage, the crosscoder paper's core claim, on planted features.

Features that the first model has at 0.3 of the second's scale have Delta 0.85. BatchTopK finds
that; the L1 cost drives their first decoder row towards zero and calls them the second model's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.build import crosscoder, start_bias
from interp_jax.dictionaries.delta import classes, delta
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import paper_optimiser, start, train_step, warmed_up

SHARED, WEAK, D, F, K, ROWS, STEPS = 40, 8, 24, 96, 3, 512, 3000
PLANTED = SHARED + WEAK


def directions() -> jax.Array:
    drawn = jax.random.normal(jax.random.key(5), (PLANTED, D))
    return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)


def batch(key) -> jax.Array:
    """Both models' activations [ROWS, 2, D]; three features per row on average."""
    on, size = jax.random.split(key)
    active = jax.random.bernoulli(on, K / PLANTED, (ROWS, PLANTED))
    sizes = jax.random.uniform(size, (ROWS, PLANTED), minval=0.5, maxval=1.5)
    code = jnp.where(active, sizes, 0.0)
    first = jnp.where(jnp.arange(PLANTED) < SHARED, 1.0, 0.3)
    return jnp.stack([(code * first[None]) @ directions(), code @ directions()], axis=1)


def trained_delta(activation: str, recipe: Recipe, init_norm: float, clip: float | None):
    """Delta of the latent nearest to each planted feature, and its cosine."""
    optimiser = paper_optimiser(warmed_up(2e-3, 100, decay_from=STEPS // 2, end=STEPS), clip)
    d = crosscoder(2, D, F, jax.random.key(1), k=K, activation=activation, init_norm=init_norm)
    state = start(start_bias(d, batch(jax.random.key(0))), optimiser)
    keys = jax.random.split(jax.random.key(2), STEPS)
    run = jax.jit(
        lambda s: jax.lax.scan(lambda s, key: train_step(s, batch(key), recipe, optimiser), s, keys)
    )
    after = run(state)[0].dictionary()
    rows = np.asarray(after.decoder_rows())[:, 1]
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)
    cosine = rows @ np.asarray(directions()).T
    return np.asarray(delta(after.decoder_norms()))[cosine.argmax(0)], cosine.max(0)


@pytest.mark.slow
def test_batch_topk_finds_the_true_delta():
    recipe = Recipe(dead_after=20_000, threshold_start=500)
    found, cosine = trained_delta("batch_topk", recipe, init_norm=1.0, clip=1.0)
    assert (cosine > 0.9).mean() > 0.95
    np.testing.assert_allclose(found[SHARED:], 0.85, atol=0.02)
    np.testing.assert_allclose(np.median(found[:SHARED]), 0.5, atol=0.01)


@pytest.mark.slow
def test_l1_calls_them_exclusive():
    recipe = Recipe(sparsity=0.4, squared=True)
    found, cosine = trained_delta("relu", recipe, init_norm=0.3, clip=None)
    assert (cosine > 0.9).mean() > 0.95
    assert np.asarray(classes(jnp.asarray(found[SHARED:])).chat_only).all()
    np.testing.assert_allclose(np.median(found[:SHARED]), 0.5, atol=0.02)
