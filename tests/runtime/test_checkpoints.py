"""Checkpoints: what is saved comes back, another form is refused, the last N stay."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.runtime.checkpoints import Checkpoints
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.mesh import make_mesh, named_sharding

pytestmark = pytest.mark.core


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    weights: dict
    key: jax.Array
    keys: jax.Array
    host: np.ndarray
    step: int
    rate: float


def state(seed=0, width=4):
    key = root_key(seed)
    return State(
        weights={
            "a/b.c": jnp.arange(width, dtype=jnp.bfloat16) + jnp.bfloat16(seed),
            "w": jnp.full((8, 2), seed, jnp.float32),
        },
        key=fold(key, "train"),
        keys=jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        host=np.arange(3, dtype=np.int64) + seed,
        step=seed,
        rate=seed / 2,
    )


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert type(a) is type(b)
        if isinstance(a, (jax.Array, np.ndarray)):
            assert a.dtype == b.dtype
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_what_is_saved_comes_back_and_the_last_two_stay(tmp_path):
    with Checkpoints(tmp_path / "ckpt", keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"cursor": [step, "x"]})
        with pytest.raises(UserError, match="a checkpoint of step 3"):
            checkpoints.save(3, state(3))
    with Checkpoints(tmp_path / "ckpt", keep=2) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        step, restored, extra = checkpoints.restore(state(0))
        assert (step, extra) == (3, {"cursor": [3, "x"]})
        assert_same(restored, state(3))
        assert_same(checkpoints.restore(state(0), 2)[1], state(2))
        # A restored key draws what the saved one would have drawn.
        np.testing.assert_array_equal(
            jax.random.bits(restored.key, (4,)), jax.random.bits(state(3).key, (4,))
        )
        with pytest.raises(UserError, match=r"no checkpoint of step 1 .* steps \[2, 3\]"):
            checkpoints.restore(state(0), 1)


def test_arrays_come_back_to_where_they_are_asked(tmp_path):
    mesh = make_mesh("data:8")
    sharding = named_sharding("BD", mesh)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.arange(16, dtype=jnp.float32).reshape(8, 2)})
        like = {"w": jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=sharding)}
        _, restored, _ = checkpoints.restore(like)
    assert restored["w"].sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(restored["w"], np.arange(16).reshape(8, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"w": jnp.zeros((8, 2))}}, r"bfloat16\[4\], not absent"),
        ({"rate": jnp.float32(1)}, r"rate is Python float\[\], not float32\[\]"),
        ({"key": jax.ShapeDtypeStruct((2,), jnp.uint32)}, r"key is key<fry>\[\], not uint32\[2\]"),
        ({"keys": root_key(0)}, r"keys is key<rbg>\[3\], not key<fry>\[\]"),
    ],
)
def test_another_form_is_refused_by_name(tmp_path, change, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        with pytest.raises(UserError, match=message):
            checkpoints.restore(dataclasses.replace(state(0), **change))
        assert_same(checkpoints.restore(state(0))[1], state(1))


def test_an_empty_folder_is_told(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match="no checkpoint"):
            checkpoints.restore(state(0))
