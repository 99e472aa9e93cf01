"""Distributions compared slice by slice of the vocabulary, against float64 sums over all of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.models.decoder import build_decoder
from interp_jax.studies.thought_anchors.comparing import base_of, compared_streams
from interp_jax.studies.thought_anchors.exact_kl import EXACT, ExactKL
from interp_jax.studies.thought_anchors.top_tokens import TopTokens
from interp_jax.testing.tiny import random_parameters, tiny_config

ROWS, LENGTH = 5, 70


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def network(request):
    config = dataclasses.replace(tiny_config("llama", n_layers=1), tied_head=request.param)
    return build_decoder(config, random_parameters(config))


def make_streams(network, sizes, shared=0.0):
    """Row 0, and rows that differ from it by so much; `shared` raises all logits alike."""
    rng = np.random.default_rng(0)
    matrix = network.embed if network.head is None else network.head.T
    level = np.linalg.lstsq(np.asarray(matrix), np.ones(matrix.shape[0]), rcond=None)[0]
    base = rng.normal(0, 6, (1, LENGTH, network.config.width))
    rows = [base + size * (rng.normal(0, 1, base.shape) + shared * level) for size in sizes]
    return np.concatenate([base, *rows]).astype(np.float32)


def exact(network, streams, temperature):
    """KL [R, L] in float64."""
    matrix = np.asarray(network.embed if network.head is None else network.head.T, np.float64)
    z = streams.astype(np.float64) @ matrix.T / temperature
    top = z.max(axis=-1, keepdims=True)
    logs = z - top - np.log(np.exp(z - top).sum(axis=-1, keepdims=True))
    return (np.exp(logs[:1]) * (logs[:1] - logs)).sum(axis=-1)


run = jax.jit(compared_streams, static_argnames="comparison")


@pytest.mark.parametrize("words", [7, 50, 2048])
@pytest.mark.parametrize("temperature, shared", [(0.6, 0.0), (0.6, 3.0), (0.01, 0.0)])
def test_the_exact_kl(network, words, temperature, shared):
    """Differences from 1e-4 to large ones, and at a low temperature KLs beyond exp's range."""
    streams = make_streams(network, (1e-4, 1e-2, 0.3, 5.0), shared)
    expected = exact(network, streams, temperature)
    found = np.asarray(run(
        network, streams, jnp.int32(ROWS), jnp.float32(temperature), comparison=ExactKL(words)
    ))
    assert (found[0] == 0).all()
    assert np.isfinite(found).all()
    # Logits are rounded to float32: to 1e-6 of their own size, which counts squared.
    noise = np.abs(streams[0] @ np.asarray(network.embed).T).max() * 1e-6 / temperature
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=20 * noise**2 + 1e-12)
    if temperature == 0.01:
        assert expected.max() > 200


def test_what_rows_begin_with_is_not_computed(network):
    streams = make_streams(network, (0.1,) * 4)
    streams[3:, :40] = streams[0, :40]
    begins, heat = np.asarray([0, 0, 0, 40, 70], np.int32), jnp.float32(0.6)
    whole = np.asarray(run(network, streams, jnp.int32(ROWS), heat, comparison=EXACT))
    found = np.asarray(run(
        network, streams, jnp.int32(4), heat, comparison=EXACT, begins=begins,
        base=base_of(network, streams[0], heat),
    ))
    np.testing.assert_allclose(found[:4], whole[:4], rtol=1e-4, atol=1e-10)
    assert (found[3, :40] == 0).all()
    assert (found[4] == 0).all()


def test_a_base_is_the_log_sum_and_its_gradient(network):
    stream, heat = make_streams(network, ())[0], jnp.float32(0.6)

    def lse(stream):
        matrix = network.embed.T if network.head is None else network.head
        return jax.nn.logsumexp(stream @ matrix / heat, axis=-1)

    found = base_of(network, stream, heat)
    np.testing.assert_allclose(found.lse, lse(stream), rtol=1e-5)
    slope = jax.grad(lambda stream: lse(stream).sum())(jnp.asarray(stream))
    np.testing.assert_allclose(found.mean / heat, slope, atol=1e-4)


@pytest.mark.parametrize("words", [400, 1600, 3200])
def test_top_tokens_are_those_of_a_full_sort(words):
    """With equal logits in plenty: the lower id first, as `jax.lax.top_k` has it."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.integers(0, 60, (2, 3, 3200)) / 4, jnp.float32)
    heat = jnp.float32(0.7)
    carry, add = TopTokens.start(logits, 20), jax.jit(TopTokens.add)
    for first in range(0, 3200, words):
        carry = add(carry, logits[..., first : first + words], jnp.int32(first), heat)
    top, ids = jax.lax.top_k(logits, 20)
    np.testing.assert_array_equal(carry.logits, top)
    np.testing.assert_array_equal(carry.ids, ids)
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits / heat, axis=-1), ids, axis=-1)
    np.testing.assert_allclose(carry.log_probabilities(heat), logs, atol=1e-5)
