"""First-order effects of latents: against other gradients, finite differences, and a closed sum."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.build import sae, transcoder
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.interventions import verbs
from interp_jax.interventions.dictionary import ablate_latent, splice
from interp_jax.interventions.dictionary_effects import latent_effects
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.runtime.errors import UserError
from tests.interventions.contract import (
    LENGTHS,
    QUICK,
    ROWS,
    WIDTH,
    batch_of,
    close,
    network,
    noise,
)
from tests.interventions.plain_dictionary import plain_dictionary

D, F = 16, 12
LATE = Where(positions=[1, 2, 3])


def metric(logits):
    """Smooth, and different at every place."""
    weights = jnp.asarray(noise(*logits.shape, tag="metric"), logits.dtype)
    # Columns that belong to no row are left out.
    valid = np.arange(WIDTH)[None, :] < np.asarray(LENGTHS)[:, None]
    return jnp.sum(jnp.where(valid[..., None], jnp.sin(logits) * weights, jnp.zeros(())))


def skipping() -> Dictionary:
    t = transcoder(D, D, F, jax.random.key(1), activation="relu", skip=True)
    extra = {"skip": 0.3 * noise(D, D), "decoder_bias": noise(1, D)}
    return Dictionary(t.config, t.arrays() | extra)


def test_effects_are_the_gradient_at_a_delta_of_zero_and_at_an_ablation_of_strength_zero():
    one, two = sae(D, F, jax.random.key(0), activation="relu"), skipping()
    net, batch = network("llama", "scanned"), batch_of("llama")
    splices = [
        splice("resid_post[0,2]", one, where=LATE), splice("mlp_out[1]", two, reads="mlp_in"),
    ]  # fmt: skip
    found = latent_effects(net, batch, metric, splices)
    assert found[0].latents.shape == (2, 1, F) and found[1].latents.shape == (1, 1, F)

    @partial(jax.jit, compiler_options=QUICK)
    def others(layer_weights):
        def shifted(delta):
            edit = splice("resid_post[0,2]", one, where=LATE, delta=delta, name="d",
                          layer_weights=layer_weights)  # fmt: skip
            logits, tape = verbs.compose(verbs.read("resid_post[0,2]", name="x"), edit)(net)(batch)
            return metric(logits), tape["x"]

        delta = jnp.zeros((ROWS, WIDTH, F))
        slope, x = jax.grad(shifted, has_aux=True)(delta)

        def ablated(strengths):
            # One latent at a time has its own strength: rows of a stack of edits.
            edits = [
                ablate_latent("resid_post[0,2]", one, j, strength=strengths[j], where=LATE,
                              layer_weights=layer_weights, name=f"a{j}")
                for j in range(2)
            ]  # fmt: skip
            return metric(verbs.compose(*edits)(net)(batch)[0])

        return slope, x, jax.grad(ablated)(jnp.zeros(2))

    for slot in (0, 1):
        slope, x, by_strength = others(np.eye(2, dtype=np.float32)[slot])
        told = jnp.sum(one.encode(x[slot]) * slope, axis=(0, 1))
        close(found[0].latents[slot, 0], told, tolerance=2e-5)
        close(found[0].latents[slot, 0, :2], -by_strength, tolerance=2e-5)


def test_latents_error_and_rest_are_everything():
    """Their sum is <G, y>, skip path and biases included; roles split it."""
    net, plain = network("llama"), batch_of("llama")
    roles = jnp.asarray(np.arange(ROWS * WIDTH).reshape(ROWS, WIDTH) % 3, jnp.int8)
    batch = Batch.make(plain.tokens, plain.valid, roles=roles, packed=False)
    one = splice("mlp_out[1]", skipping(), reads="mlp_in")
    whole = latent_effects(net, batch, metric, [one])[0]
    split = latent_effects(net, batch, metric, [one], roles=(0, 1, 2))[0]
    jax.tree.map(lambda a, b: close(jnp.sum(a, axis=1), b[:, 0], tolerance=2e-5), split, whole)

    def score(push):
        edit = verbs.compose(
            verbs.read("mlp_out[1]", name="y"), verbs.add("mlp_out[1]", push)
        )  # fmt: skip
        logits, tape = edit(net)(batch)
        return metric(logits), tape["y"][0]

    run = jax.jit(jax.grad(score, has_aux=True), compiler_options=QUICK)
    slope, y = run(jnp.zeros((ROWS, WIDTH, D)))
    total = jnp.sum(whole.latents) + jnp.sum(whole.error) + jnp.sum(whole.rest)
    close(total, jnp.sum(slope * y), tolerance=2e-5)
    assert abs(float(whole.rest[0, 0])) > 1e-2  # a skip path is not small


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def test_effects_equal_finite_differences(float64):
    """Every latent: the metric with its code pushed a little, either way."""
    net, batch = network("llama", dtype="float64"), batch_of("llama")
    d = plain_dictionary(D, F)
    one = splice("resid_post[1]", d, where=LATE)
    found = latent_effects(net, batch, metric, [one])[0]

    def pushed(strength, latent):
        gone = ablate_latent("resid_post[1]", d, latent[None], strength=strength, where=LATE)
        return metric(gone(net)(batch)[0])

    run = jax.jit(jax.vmap(pushed), compiler_options=QUICK)
    latents = jnp.tile(jnp.arange(F, dtype=jnp.int32), 2)
    scores = run(jnp.repeat(jnp.asarray([-1e-5, 1e-5]), F), latents)
    told = (scores[:F] - scores[F:]) / 2e-5
    np.testing.assert_allclose(found.latents[0, 0], told, rtol=1e-6, atol=1e-8)
    assert np.sum(np.abs(told) > 1e-3) >= F // 2


def test_what_changes_the_network_has_no_effects():
    net, batch, d = network("llama"), batch_of("llama"), plain_dictionary(D, F)
    for wrong in (
        splice("resid_post[1]", d, error=False), splice("resid_post[1]", d, freeze_error=True),
        splice("resid_post", d, layer_weights=np.ones(3, np.float32)),
    ):  # fmt: skip
        with pytest.raises(UserError, match="splices with error=True"):
            latent_effects(net, batch, metric, [wrong])
    with pytest.raises(UserError, match="a scalar"):
        latent_effects(net, batch, lambda logits: logits, [splice("resid_post[1]", d)])
