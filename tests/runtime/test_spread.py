"""Spreading a pure function over devices changes where it runs and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import root_key
from interp_jax.runtime.mesh import make_mesh
from interp_jax.runtime.spread import spread

pytestmark = pytest.mark.core


def work(batch, weights):
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(batch["key"])
    y = batch["x"] @ weights["w"] + noise
    return {"y": jnp.tanh(y), "size": jnp.sum(batch["x"], axis=-1)}


def inputs(rows):
    x = np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(rows, 4)
    w = jnp.linspace(0.0, 1.0, 12).reshape(4, 3)
    return {"x": x, "key": jax.random.split(root_key(0), rows)}, {"w": w}


@pytest.mark.parametrize("rows", [8, 5, 1, 19])
def test_the_same_numbers_on_eight_devices(rows):
    batch, weights = inputs(rows)
    out = spread(work, make_mesh("data:8"))(batch, weights)
    expected = work(batch, weights)
    assert out["y"].shape == (rows, 3) and out["size"].shape == (rows,)
    for name in expected:
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-6, atol=1e-6)


def test_rows_really_lie_on_all_devices():
    out = spread(work, make_mesh("data:4,model:2"))(*inputs(8))
    assert len(out["y"].sharding.device_set) == 8
    assert out["y"].addressable_shards[0].data.shape == (2, 3)


def test_the_padded_size_decides_compilation(compile_counter):
    spread_work = spread(work, make_mesh("data:8"))
    spread_work(*inputs(16))
    batches = [inputs(rows) for rows in (16, 15, 9)]
    with compile_counter() as counter:
        for batch, weights in batches:
            spread_work(batch, weights)
    assert counter.count_of("work") == 0


def test_a_warm_call_moves_data_only_where_it_says_so(no_implicit_transfers):
    spread_work = spread(work, make_mesh("data:8"))
    batch, weights = inputs(8)
    spread_work(batch, weights)
    with no_implicit_transfers():
        spread_work(batch, weights)


def test_which_arguments_are_batch():
    mesh = make_mesh("data:8")
    out = spread(lambda w, x: x * w, mesh, batch_args=(1,))(jnp.float32(3), np.ones(6, np.float32))
    np.testing.assert_array_equal(out, np.full(6, 3, np.float32))


def test_gradients_and_outer_jit_go_through():
    spread_sum = spread(lambda x, w: (x * w).sum(axis=1), make_mesh("data:8"))
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    grad = jax.grad(lambda w: spread_sum(x, w).sum())(jnp.ones((1, 2)))
    np.testing.assert_allclose(grad, x.sum(axis=0, keepdims=True))


@pytest.mark.parametrize(
    ("function", "batch", "message"),
    [
        (lambda x: x.sum(), np.ones((8, 2), np.float32), "an output of shape"),
        (lambda x: {"a": x[:2]}, np.ones((8, 2), np.float32), r"output\['a'\] of shape \(2, 2\)"),
        (lambda x: x["a"], {"a": np.ones(3), "b": np.ones(4)}, "same positive number of rows"),
        (lambda x: x, np.ones((0, 2), np.float32), "same positive number of rows"),
        (lambda x: x, {}, "same positive number of rows"),
    ],
)
def test_refused(function, batch, message):
    with pytest.raises(UserError, match=message):
        spread(function, make_mesh("data:8"))(batch)


def test_a_mesh_without_the_axis_is_refused():
    with pytest.raises(UserError, match="expected an axis 'data'"):
        spread(work, make_mesh("model:8"))
