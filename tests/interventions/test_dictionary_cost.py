"""Edits of few latents cost what few latents cost, in a step of cached generation too."""

import jax
import jax.numpy as jnp
import pytest

from interp_jax.dictionaries.build import sae
from interp_jax.interventions.dictionary import (
    clamp_latent,
    read_latents,
    splice,
    steer_latent,
)
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.compilation import plan
from interp_jax.testing.tiny import random_parameters, tiny_config

pytestmark = pytest.mark.core
ROWS, F, P = 4, 4096, 3


def flops(edit) -> float:
    """Of one decode step."""
    config = tiny_config("llama", n_layers=1)
    network = build_decoder(config, random_parameters(config, 0))
    cache = network.empty_cache(ROWS, 16)
    batch = Batch.make(jnp.ones((ROWS, 1), jnp.int32), packed=True)

    def step(network, edit, batch, cache):
        network = network if edit is None else edit(network)
        return network.extend(batch, cache)[:2]

    return plan(step, network, edit, batch, cache).flops


def test_a_few_latents_in_a_decode_step_cost_next_to_nothing():
    width = tiny_config("llama").width
    base = flops(None)
    for activation in ("batch_topk", "gated"):
        d = sae(width, F, jax.random.key(0), k=8, activation=activation)
        latents = jnp.asarray([5, 77, 900])
        whole = flops(splice("resid_post[0]", d, error=False)) - base
        assert whole > 2 * ROWS * 2 * width * F  # encoder and decoder, every latent
        # 2 P (D + D) a token; as much again for norms, thresholds and the gathered rows.
        few = 2 * ROWS * P * 2 * width
        for edit in (
            clamp_latent("resid_post[0]", d, latents, 0.5),
            read_latents("resid_post[0]", d, latents=latents),
            steer_latent("resid_post[0]", d, latents, 2.0),
        ):
            assert flops(edit) - base < 3 * few + 2000 < whole / 100
    # A latent of a topk dictionary depends on all the others, so all are encoded; only
    # the decoder's half is saved.
    d = sae(width, F, jax.random.key(0), k=8, activation="topk")
    clamped = flops(clamp_latent("resid_post[0]", d, latents, 0.5)) - base
    assert clamped > 2 * ROWS * width * F
