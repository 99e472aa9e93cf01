"""Means of attention over spans, read block by block: one intervention, every execution."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from interp_jax.interventions.placing import compose, detach
from interp_jax.interventions.reads import SpanMeans
from interp_jax.interventions.verbs import read, scale, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import as_prefix, build_decoder
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.interventions.contract import QUICK

LENGTH = 150  # three blocks of queries by three of keys
OWN = (150, 97)
SPANS = np.asarray([[0, 4], [4, 30], [30, 30], [30, 90], [90, 140]], np.int32)
LATE = Where(spans=[[20, 120]])

forward = jax.jit(lambda net, batch: net(batch), compiler_options=QUICK)


def looked(network, *, path: str, strength=0.6):
    """Two reads, one of some heads and queries, below a suppression."""
    return compose(
        suppress_attention(
            Where(spans=[[0, 3]]), heads=(1, 2), strength=strength, name="suppress"
        ),
        read("attn_weights", reduce=SpanMeans(SPANS), name="all"),
        read("attn_weights[1]", reduce=SpanMeans(SPANS[1:]), where=LATE, name="some"),
        read("attn_weights[0,1].heads[2]", reduce=SpanMeans(SPANS), name="head"),
    )(dataclasses.replace(network, path=path))


def made(family: str, dtype: str = "float32"):
    """One local and one global layer, where the family has both."""
    config = tiny_config(family, max_context=256, n_layers=2)
    return build_decoder(config, random_parameters(config, dtype=dtype))


@pytest.fixture(scope="module")
def network():
    return made("gemma2")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    valid = np.arange(LENGTH)[None] < np.asarray(OWN)[:, None]
    return Batch.make(rng.integers(3, 101, (2, LENGTH)), valid, packed=False)


@pytest.fixture(scope="module")
def reference(network, batch):
    return forward(looked(network, path="reference"), batch)


def close(ours, theirs):
    """Means within 1e-6, logits within 1e-5 of the largest, counts equal."""
    (logits, tape), (other, told) = jax.device_get((ours, theirs))
    assert np.abs(logits - other).max() <= 1e-5 * np.abs(other).max()
    assert tape.keys() == told.keys()
    for name, value in told.items():
        if np.issubdtype(value.dtype, np.integer):
            assert np.array_equal(tape[name], value), name
        else:
            assert tape[name].shape == value.shape
            assert np.abs(tape[name] - value).max() <= 1e-6, name


def test_reference_is_the_mean_of_the_matrix(network, batch, reference):
    matrix = read("attn_weights", name="matrix")
    _, tape = forward(matrix(looked(network, path="auto")), batch)
    own = np.asarray(tape["matrix"])  # the whole matrix opens the weights to everybody
    for i, (first, last) in enumerate(SPANS):
        for j, (start, end) in enumerate(SPANS):
            block = own[:, 0, :, first:last, start:end]
            wanted = block.mean((-1, -2)) if block.size else 0.0
            assert np.allclose(np.asarray(reference[1]["all"])[:, 0, :, i, j], wanted, atol=1e-6)


def test_blocks_give_the_numbers_of_the_reference(network, batch, reference):
    close(forward(looked(network, path="auto"), batch), reference)


def test_in_a_scan(network, batch):
    """Layers that are read stand alone between stacks, with the same numbers."""
    config = tiny_config("llama", max_context=256, n_layers=4)
    params = random_parameters(config)
    look = read("attn_weights[2]", reduce=SpanMeans(SPANS), name="means")
    ours = look(build_decoder(config, params, "scanned"))
    theirs = look(dataclasses.replace(build_decoder(config, params), path="reference"))
    close(forward(ours, batch), forward(theirs, batch))


def test_no_matrix_of_tokens_is_held(network, batch):
    """No array of the program has T x T numbers; the reference path has them."""
    held = {}
    for path in ("fused", "reference"):
        jaxpr = jax.make_jaxpr(lambda net, b: net(b, logits_at="none"))(
            looked(network, path=path), batch
        )
        held[path] = _holds(jaxpr.jaxpr, {(150, 150), (192, 192)})
    assert not held["fused"] and held["reference"]


def _holds(jaxpr, squares) -> bool:
    """Whether any value ends in two axes of T tokens (padded or not)."""
    for equation in jaxpr.eqns:
        for var in equation.outvars:
            shape = getattr(var.aval, "shape", ())
            if tuple(shape[-2:]) in squares:
                return True
        for inner in jaxprs_in_params(equation.params):
            if _holds(inner, squares):
                return True
    return False


def test_suppressing_nothing_keeps_the_bits(network, batch):
    at = lambda strength: looked(network, path="fused", strength=np.float32(strength))
    none, some = (jax.device_get(forward(at(s), batch)) for s in (0.0, 0.6))
    bare = detach(at(0.0), "suppress")
    logits, tape = jax.device_get(forward(bare, batch))
    assert np.array_equal(logits, none[0]) and np.array_equal(tape["all"], none[1]["all"])
    assert not np.array_equal(none[1]["all"], some[1]["all"])
    assert int(tape["touched/all"].sum()) == sum(OWN) * network.config.n_layers
    assert "touched/all" not in forward(detach(bare), batch)[1]


def test_gradients_and_vmap(network, batch):
    """One program maps over strengths, and differentiates the means by each of them."""
    strengths = jnp.asarray([0.2, 0.6], jnp.float32)

    def value(path):
        def one(strength):
            net = detach(looked(network, path=path, strength=strength), "some", "head")
            logits, tape = net(batch)
            return jnp.sum(tape["all"] ** 2) + jnp.mean(logits**2)

        both = jax.vmap(jax.value_and_grad(one))
        return jax.jit(both, compiler_options=QUICK)(strengths)

    ours, theirs = jax.device_get((value("fused"), value("reference")))
    assert np.all(np.abs(theirs[1]) > 1e-4)
    for one, other in zip(ours, theirs, strict=True):
        assert np.allclose(one, other, rtol=1e-5)


def test_eight_devices(network, batch, reference):
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "model"))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    here = NamedSharding(mesh, PartitionSpec())
    net = jax.device_put(looked(network, path="auto"), here)
    close(forward(net, jax.device_put(batch, rows)), reference)


def test_going_on_from_a_shared_prefix(network):
    """Keys in two groups, a shared prefix and the rows' own, are one matrix to a read."""
    rng = np.random.default_rng(4)
    head = Batch.make(rng.integers(3, 101, (1, 40)))
    tail = Batch.make(rng.integers(3, 101, (2, 70)), start=np.asarray([40, 40]))
    _, _, cache = network.extend(head, network.empty_cache(1, 40), fresh=True)
    cache = network.empty_cache(2, 70, as_prefix(cache))
    go_on = jax.jit(
        lambda net, *more: net.extend(*more, logits_at="all")[:2], compiler_options=QUICK
    )
    fused, reference = (
        go_on(looked(network, path=path), tail, cache) for path in ("fused", "reference")
    )
    close(fused, reference)
    assert fused[1]["all"].shape == (2, 2, 4, 5, 5)


def test_an_edit_of_the_weights_is_seen_by_the_read_after_it(network, batch):
    """Then the weights must exist, and the read is of what was edited."""
    halved = scale("attn_weights", 0.5, name="halve")
    look = read("attn_weights[0]", reduce=SpanMeans(SPANS), name="means")
    _, plain = forward(look(network), batch)
    _, edited = forward(look(halved(network)), batch)
    assert np.allclose(2 * edited["means"], plain["means"], atol=1e-6)


def test_bfloat16(batch):
    net = made("llama", "bfloat16")
    _, tape = forward(looked(net, path="fused"), batch)
    _, told = forward(looked(net, path="reference"), batch)
    # Both round keys alike; layers further up see streams that differ by bfloat16 roundings.
    assert np.abs(tape["all"] - told["all"])[0].max() <= 1e-5
    assert np.abs(tape["all"] - told["all"]).max() <= 5e-3
