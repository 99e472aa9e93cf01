"""The MLP in parts of the tokens: the same numbers, bits and gradients as in one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interp_jax as ij
from interp_jax.models import token_parts
from interp_jax.models.token_parts import in_parts, part_length
from interp_jax.testing.tiny import random_parameters, tiny_config

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    "tokens, length",
    [(1, 1), (1536, 1536), (2048, 1024), (3264, 1088), (3312, 1104), (2496, 832), (8192, 1024),
     (1553, 1553)],
)  # fmt: skip
def test_parts_divide_the_tokens_on_one_cpu_device(monkeypatch, tokens, length):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert part_length(tokens) == length


@pytest.mark.parametrize("backend, devices", [("cpu", 8), ("gpu", 1), ("tpu", 1)])
def test_elsewhere_nothing_is_cut(monkeypatch, backend, devices):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert part_length(2**16) == 2**16


@pytest.fixture
def cut(monkeypatch):
    """Every 12 tokens on their own."""
    monkeypatch.setattr(token_parts, "part_length", lambda tokens: 12)


def test_tokens_come_back_in_their_places(cut, fresh_key):
    x = jax.random.normal(fresh_key(), (4, 9, 3))
    seen = []
    found = in_parts(lambda part: seen.append(part.shape) or part * 2, x)
    assert seen == [(12, 3)] and found.shape == (4, 9, 3)
    np.testing.assert_array_equal(found, x * 2)


def network(layout: str = "unrolled") -> ij.Decoder:
    config = tiny_config("llama")
    return ij.build_decoder(config, random_parameters(config), layout)


def batch() -> ij.Batch:
    tokens = np.random.default_rng(0).integers(0, 60, (4, 9))
    return ij.Batch.make(tokens, np.arange(9)[None] < np.asarray([[9], [4], [7], [1]]))


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_a_network_has_the_same_logits_and_gradients(monkeypatch, layout):
    def loss(network):
        logits, _ = network(batch())
        return jnp.mean(jnp.where(batch().valid[..., None], logits, 0.0) ** 2), logits

    (_, whole), expected = jax.value_and_grad(loss, has_aux=True)(network(layout))
    monkeypatch.setattr(token_parts, "part_length", lambda tokens: 12)
    (_, parts), found = jax.value_and_grad(loss, has_aux=True)(network(layout))
    mine = batch().valid
    np.testing.assert_allclose(parts[mine], whole[mine], rtol=1e-6, atol=1e-6)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("site", ["mlp_in", "mlp_hidden", "mlp_out"])
def test_an_idle_edit_keeps_the_bits_and_a_real_one_is_made(cut, site):
    # Inside the MLP an edit is given all tokens at once, so there the base is cut and it is not.
    net = network()
    width = net.config.mlp_width if site == "mlp_hidden" else net.config.width
    run = jax.jit(lambda network, batch: network(batch)[0])
    vector = np.ones(width, np.float32)
    base = run(net, batch())
    idle = run(ij.add(site, vector, strength=0.0)(net), batch())
    np.testing.assert_array_equal(idle, base)
    assert jnp.abs(run(ij.add(site, vector)(net), batch()) - base).max() > 1e-3


@pytest.mark.parametrize("rows, length", [(1, 512), (3, 256), (1, 4096)])
def test_scratch_memory_does_not_grow_with_the_layers(monkeypatch, rows, length):
    # The MLP in parts, and attention by columns and by blocks of keys.
    monkeypatch.setattr(token_parts, "part_length", lambda tokens: tokens // 4)
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def scratch(layers: int) -> int:
        config = tiny_config("llama", n_layers=layers, max_context=length)
        net = ij.build_decoder(config, random_parameters(config), "unrolled")
        run = jax.jit(lambda net, tokens: net(ij.Batch.make(tokens), logits_at="last")[0])
        return run.lower(net, tokens).compile().memory_analysis().temp_size_in_bytes

    stream = 4 * rows * length * tiny_config("llama").width
    assert scratch(12) - scratch(4) < stream
