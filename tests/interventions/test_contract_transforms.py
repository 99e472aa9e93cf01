"""The contract of interventions, second part: under vmap, grad, meshes and pmap.

See `test_contract`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from interp_jax.interventions import verbs
from interp_jax.interventions.lora import lora
from interp_jax.interventions.placing import detach
from interp_jax.models.decoder import build_decoder
from interp_jax.models.sharding import parameter_sharding
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh
from tests.interventions.contract import (
    CONFIGS,
    QUICK,
    ROWS,
    batch_of,
    close,
    forward,
    network,
    noise,
    parameters,
    quick_forward,
    same_bits,
)
from tests.interventions.contract_cases import (
    BUNDLES,
    CASES,
    floating,
    some_layers,
    zeroed,
)


@pytest.mark.parametrize("case", BUNDLES)
def test_vmap_over_strengths_and_layers_equals_a_loop_and_compiles_once(case, compile_counter):
    one, name = BUNDLES[case], "llama"
    config = CONFIGS[name]
    values, batch = one.values(config), batch_of(name)
    net = dataclasses.replace(network(name, "scanned"), path=one.path)

    def sweep(net, cells, batch):
        return jax.vmap(lambda cell: one.build(config, values | cell)(net)(batch))(cells)

    sweep = jax.jit(sweep, compiler_options=QUICK)
    cells = {}
    for key, value in values.items():
        if key.endswith("strength"):
            cells[key] = np.stack([value * f for f in (0.5, 1.0, 0.0)]).astype(np.float32)
        if key.endswith("layer_weights"):  # one layer after the other, then all of them
            cells[key] = np.stack([*np.eye(2, dtype=np.float32), np.ones(2, np.float32)])
    assert cells
    forward(one.edited(name, "scanned"), batch)
    with compile_counter() as counter:
        mapped = sweep(net, cells, batch)
        again = sweep(net, {key: np.flip(v, 0).copy() for key, v in cells.items()}, batch)
        loop = [
            forward(one.edited(name, "scanned", **{k: v[i] for k, v in cells.items()}), batch)
            for i in range(3)
        ]
    assert counter.count_of("sweep") == 1 and counter.count_of("forward") == 0
    for i, (logits, tape) in enumerate(loop):
        close((mapped[0][i], {k: v[i] for k, v in mapped[1].items()}), (logits, tape))
    close(again[0][::-1], mapped[0])


@pytest.mark.parametrize("case", BUNDLES)
def test_a_layer_whose_weight_is_zero_is_not_touched(case):
    one, config = BUNDLES[case], CONFIGS["llama"]
    both = forward(one.edited("llama", "unrolled"), batch_of("llama"))[1]
    weighted = [key for key in one.values(config) if key.endswith("layer_weights")]
    first = {key: np.asarray([1.0, 0.0], np.float32) for key in weighted}
    half = forward(one.edited("llama", "unrolled", **first), batch_of("llama"))[1]
    assert weighted and len(some_layers(config)) == 2
    # `project` is an edit in the second bundle and a read in the first, which has no weight.
    edits = ("add", "replace", "set", "lora/q", "project_out", "weights", "scale")
    for name in (*edits, "project") if case == "bundle_two" else edits:
        if (key := f"touched/{name}") in both:
            same_bits(2 * half[key], both[key])


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("name", "layout"), [("llama", "unrolled"), ("gemma", "scanned")])
@pytest.mark.parametrize("case", BUNDLES)
def test_gradients_equal_finite_differences(case, name, layout, float64):
    one, config = BUNDLES[case], CONFIGS[name]
    net = dataclasses.replace(network(name, layout, "float64"), path=one.path)
    batch = batch_of(name)
    at = jnp.asarray(noise(ROWS, 10, config.vocab_size, tag="loss"), jnp.float64)

    def loss(values, net):
        logits, tape = one.build(config, values)(net)(batch)
        seen = [jnp.sum(jnp.sin(v)) for v in tape.values() if v.dtype == jnp.float64]
        valid = batch.unpack(batch.valid)[:, :, None]
        return jnp.sum(jnp.where(valid, logits * at, jnp.zeros(()))) + sum(seen)

    both = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)
    full = floating(one.values(config))
    for values in (full, full | floating(zeroed(one, config))):
        _, gradient = both(values, net)
        assert set(gradient) == set(full)
        for key, value in values.items():
            direction = jnp.asarray(noise(*value.shape, tag="direction"), jnp.float64)
            ends = [both(values | {key: value + s * 1e-5 * direction}, net)[0] for s in (1, -1)]
            measured = float(ends[0] - ends[1]) / 2e-5
            told = float(jnp.sum(gradient[key] * direction))
            lengths = (jnp.linalg.norm(a.ravel()) for a in (gradient[key], direction))
            scale = float(jnp.prod(jnp.stack(list(lengths))))
            assert abs(measured - told) <= 1e-6 * scale + 1e-8, key
            if key.endswith("strength"):
                assert np.all(np.abs(np.asarray(gradient[key])) > 1e-6)


@pytest.mark.parametrize("case", BUNDLES)
def test_eight_devices_equal_one(case):
    one, name = BUNDLES[case], "llama"
    config = CONFIGS[name]
    mesh = make_mesh("data:4,model:2")
    where = parameter_sharding(mesh)
    placed = {
        key: jax.device_put(value, where(key, value.shape))
        for key, value in parameters(config).items()
    }
    assert any(not value.sharding.is_fully_replicated for value in placed.values())
    net = dataclasses.replace(build_decoder(config, placed), path=one.path)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.tree.map(lambda leaf: jax.device_put(leaf, rows), batch_of(name))
    spread = quick_forward(one.build(config, one.values(config))(net), batch)
    assert len(spread[0].sharding.device_set) == 8
    close(spread, forward(one.edited(name, "unrolled"), batch_of(name)))


@pytest.mark.parametrize("case", BUNDLES)
def test_inside_pmap_equals_outside(case):
    one, name = BUNDLES[case], "llama"
    config = CONFIGS[name]
    values = one.values(config)
    split = lambda array: np.asarray(array).reshape(2, ROWS // 2, *np.shape(array)[1:])
    mine = {key: split(values[key]) for key in one.rows}
    net = dataclasses.replace(network(name), path=one.path)

    def inside(net, mine, batch):
        return one.build(config, values | mine)(net)(batch)[0]

    halves = jax.pmap(inside, in_axes=(None, 0, 0), devices=jax.devices()[:2])(
        net, mine, jax.tree.map(split, batch_of(name))
    )
    whole = forward(one.edited(name, "unrolled"), batch_of(name))[0]
    close(np.asarray(halves).reshape(whole.shape), whole)


@pytest.mark.core
@pytest.mark.parametrize("case", CASES)
def test_operands_that_are_not_finite_are_refused(case):
    one, config = CASES[case], CONFIGS["llama"]
    for key, value in floating32(one.values(config)).items():
        for bad in (np.nan, np.inf):
            spoiled = np.array(value)
            spoiled.flat[-1] = bad
            with pytest.raises(UserError, match="finite"):
                one.build(config, one.values(config) | {key: spoiled})


def floating32(values):
    return {k: np.asarray(v) for k, v in values.items() if np.asarray(v).dtype == np.float32}


@pytest.mark.core
def test_a_sweep_over_layers_compiles_once_where_the_edited_network_is_an_argument(
    compile_counter,
):
    net, batch, vector = network("gemma3", "scanned"), batch_of("gemma3"), noise(16, tag="sweep")
    program = jax.jit(lambda net, batch: net(batch), compiler_options=QUICK)
    with compile_counter() as counter:
        seen = []
        for layer in range(13):
            one_hot = np.eye(13, dtype=np.float32)[layer]
            logits, tape = program(
                verbs.add("resid_post", vector, layer_weights=one_hot, name="add")(net), batch
            )
            seen.append(np.asarray(logits))
            np.testing.assert_array_equal(tape["touched/add"], np.asarray(batch.lengths))
    assert counter.count_of("<lambda>") == 1
    assert all(not np.allclose(a, b, atol=1e-3) for a, b in zip(seen, seen[1:], strict=False))
    direct, _ = program(verbs.add("resid_post[7]", vector)(network("gemma3", "scanned")), batch)
    close(seen[7], direct)


@pytest.mark.core
def test_a_fresh_adapter_is_the_base_and_stays_trainable():
    net, batch = network("llama", "scanned"), batch_of("llama")
    fresh = lora(CONFIGS["llama"], jax.random.key(0), rank=2, targets=("q", "o", "up"))
    same_bits(forward(fresh(net), batch)[0], forward(detach(fresh(net)), batch)[0])

    def loss(values):
        return jnp.sum(fresh.with_trainable(values)(net)(batch)[0][:, :, 0])

    gradient = jax.jit(jax.grad(loss))(fresh.trainable())
    assert all(np.any(g["b"]) and not np.any(g["a"]) for g in gradient.values())
