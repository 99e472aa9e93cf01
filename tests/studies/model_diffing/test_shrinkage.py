"""Complete shrinkage, the crosscoder paper's core claim, on planted features.

Features that the first model has at 0.3 of the second's scale have Delta 0.85. BatchTopK finds
that; the L1 cost drives their first decoder row towards zero and calls them the second model's.
Latent Scaling sees through it: what the dictionary left out is still in the residual, nu_eps 0.3.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.build import crosscoder, start_bias
from interp_jax.dictionaries.delta import classes, delta
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import paper_optimiser, start, train_step, warmed_up
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling, latent_scaling
from interp_jax.studies.model_diffing.moments import (
    MomentsPlan,
    add_moments,
    groups_of,
    no_moments,
    vector_tables,
)
from interp_jax.studies.model_diffing.subsets import verdicts
from tests.compiling import PLAIN

pytestmark = pytest.mark.slow
SHARED, WEAK, OWN, D, F, K, ROWS, STEPS = 40, 8, 4, 24, 96, 3, 512, 3000
PLANTED = SHARED + WEAK + OWN
WEAKLY = slice(SHARED, SHARED + WEAK)
CHAT = slice(SHARED + WEAK, PLANTED)


def directions() -> jax.Array:
    drawn = jax.random.normal(jax.random.key(5), (PLANTED, D))
    return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)


def batch(key) -> jax.Array:
    """Both models' activations [ROWS, 2, D]; three features per row on average.

    The first model has the weak ones at 0.3 and the last ones not at all.
    """
    on, size = jax.random.split(key)
    active = jax.random.bernoulli(on, K / PLANTED, (ROWS, PLANTED))
    sizes = jax.random.uniform(size, (ROWS, PLANTED), minval=0.5, maxval=1.5)
    code = jnp.where(active, sizes, 0.0)
    place = jnp.arange(PLANTED)
    first = jnp.where(place < SHARED, 1.0, jnp.where(place < SHARED + WEAK, 0.3, 0.0))
    return jnp.stack([(code * first[None]) @ directions(), code @ directions()], axis=1)


class Found(NamedTuple):
    """Of the latent nearest to each planted feature: its Delta, its cosine, and its number."""

    delta: np.ndarray
    cosine: np.ndarray
    latents: np.ndarray
    scaling: LatentScaling

    def nu(self, name: str) -> np.ndarray:
        return self.scaling.ratios[name][self.latents]


def trained(activation: str, recipe: Recipe, init_norm: float, clip: float | None) -> Found:
    optimiser = paper_optimiser(warmed_up(2e-3, 100, decay_from=STEPS // 2, end=STEPS), clip)
    d = crosscoder(2, D, F, jax.random.key(1), k=K, activation=activation, init_norm=init_norm)
    state = start(start_bias(d, batch(jax.random.key(0))), optimiser)
    keys = jax.random.split(jax.random.key(2), STEPS)
    run = jax.jit(
        lambda s: jax.lax.scan(
            lambda s, key: train_step(s, batch(key), recipe, optimiser), s, keys
        ),
        compiler_options=PLAIN,
    )
    after = run(state)[0].dictionary()
    rows = np.asarray(after.decoder_rows())[:, 1]
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)
    cosine = rows @ np.asarray(directions()).T
    nearest = cosine.argmax(0)
    of = np.asarray(delta(after.decoder_norms()))[nearest]
    return Found(of, cosine.max(0), nearest, scaled(after))


def scaled(dictionary) -> LatentScaling:
    """Latent Scaling on fresh data, 32 batches."""
    plan = MomentsPlan(vectors=("own", "random"), capacity=32, rows_at_once=64)
    vectors = vector_tables(dictionary, plan, jax.random.key(3))
    group, keep = jnp.asarray(groups_of(np.arange(ROWS), plan.groups)), jnp.ones(ROWS, bool)
    moments = no_moments(dictionary, plan)
    for number in range(32):
        x = batch(jax.random.fold_in(jax.random.key(4), number))
        moments = add_moments(moments, dictionary, x, keep, group, vectors, plan)
    return latent_scaling(moments, dictionary, vectors, plan)


@pytest.fixture(scope="module")
def batch_topk() -> Found:
    return trained("batch_topk", Recipe(dead_after=20_000, threshold_start=500), 1.0, 1.0)


@pytest.fixture(scope="module")
def l1() -> Found:
    return trained("relu", Recipe(sparsity=0.4, squared=True), 0.3, None)


def test_batch_topk_finds_the_true_delta(batch_topk):
    assert (batch_topk.cosine > 0.9).mean() > 0.9
    np.testing.assert_allclose(batch_topk.delta[WEAKLY], 0.85, atol=0.02)
    np.testing.assert_allclose(np.median(batch_topk.delta[:SHARED]), 0.5, atol=0.01)


def test_l1_calls_them_exclusive(l1):
    assert (l1.cosine > 0.9).mean() > 0.9
    assert np.asarray(classes(jnp.asarray(l1.delta[WEAKLY])).chat_only).all()
    np.testing.assert_allclose(np.median(l1.delta[:SHARED]), 0.5, atol=0.02)


def test_latent_scaling_flags_what_l1_shrank(l1):
    """All weak latents are above the bound of 0.2, all true chat latents below."""
    nu = l1.nu("nu_eps")
    np.testing.assert_allclose(nu[WEAKLY], 0.3, atol=0.05)
    assert (nu[CHAT] < 0.1).all()
    told = verdicts(l1.latents[WEAKLY], l1.scaling.ratios["nu_eps"], l1.scaling.ratios["nu_r"])
    assert told["shrinkage"] + told["both"] == WEAK
    own = verdicts(l1.latents[CHAT], l1.scaling.ratios["nu_eps"], l1.scaling.ratios["nu_r"])
    assert own["chat_specific"] == OWN


def test_under_batch_topk_delta_and_scaling_agree(batch_topk):
    for name in ("nu_eps", "nu_r", "nu_act"):
        nu = batch_topk.nu(name)
        np.testing.assert_allclose(nu[WEAKLY], 0.3, atol=0.1)
        np.testing.assert_allclose(np.median(nu[:SHARED]), 1.0, atol=0.05)
        assert np.abs(nu[CHAT]).max() < 0.15


def test_the_ratios_are_known_to_the_error_they_say(batch_topk):
    """Standard errors over groups are of the size of the deviations from the truth."""
    error = batch_topk.scaling.errors["nu_eps"][batch_topk.latents[WEAKLY]]
    assert ((error > 0) & (error < 0.05)).all()
