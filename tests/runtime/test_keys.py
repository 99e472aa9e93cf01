"""Keys by purpose: stable, order-free, the same traced or not, old keys refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.keys import fold, root_key

pytestmark = pytest.mark.core


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_names_items_and_steps_all_count():
    key = root_key(7)
    made = [
        fold(key, "sampling"),
        fold(key, "dropout"),
        fold(key, "sampling", 0),
        fold(key, "sampling", 1),
        fold(key, "sampling", 0, 1),
        fold(key, "sampling", 1, 0),
        fold(key, "sampling", "row-1"),
        fold(root_key(8), "sampling"),
    ]
    assert len({data(key) for key in made}) == len(made)
    assert data(fold(key, "sampling", 3, 4)) == data(fold(root_key(7), "sampling", 3, 4))


def test_a_fold_is_what_it_says():
    # Saved results depend on it. `printf sampling | sha256sum` begins with 52630e41.
    key = jax.random.key(0)
    for number in (0x410E6352, 3, 5):
        key = jax.random.fold_in(key, np.uint32(number))
    assert data(fold(root_key(0), "sampling", 3, 5)) == data(key)


def test_traced_and_mapped_indices_give_the_same_keys():
    key = root_key(1)
    items = jnp.arange(4, dtype=jnp.int32)
    mapped = jax.jit(jax.vmap(lambda item: fold(key, "sampling", item, 2)))(items)
    assert [data(one) for one in mapped] == [data(fold(key, "sampling", i, 2)) for i in range(4)]
    assert data(fold(key, "sampling", np.int64(3))) == data(fold(key, "sampling", 3))


def test_a_draw_is_the_same_on_one_device_and_on_eight():
    key = fold(root_key(3), "noise")
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        jax.sharding.PartitionSpec("data"),
    )
    alone = jax.random.uniform(key, (16, 3))
    spread = jax.jit(lambda k: jax.random.uniform(k, (16, 3)), out_shardings=sharding)(key)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(alone, spread)


@pytest.mark.parametrize(
    "case",
    {
        "old key": lambda: fold(jax.random.PRNGKey(0), "sampling"),
        "no key": lambda: fold(3, "sampling"),
        "negative": lambda: fold(root_key(0), "sampling", -1),
        "too large": lambda: fold(root_key(0), "sampling", 2**32),
        "fraction": lambda: fold(root_key(0), "sampling", 1.5),
        "bool": lambda: fold(root_key(0), "sampling", True),
        "batch": lambda: fold(root_key(0), "sampling", jnp.arange(3)),
        "float array": lambda: fold(root_key(0), "sampling", jnp.ones(())),
        "seed": lambda: root_key(-1),
    }.items(),
    ids=lambda case: case[0],
)
def test_refused(case):
    with pytest.raises(UserError):
        case[1]()
