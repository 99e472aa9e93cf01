"""Random keys by purpose: folded by name, then item, then step.

A draw is a function of the seed, what it is for, and which item and step it belongs to. So a
sample does not depend on its neighbours in a batch, on its slot, on the number of devices, or on
what else the program draws.
"""

from __future__ import annotations

import hashlib
import operator

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime.errors import UserError

_LIMIT = 2**32


def root_key(seed: int) -> jax.Array:
    """The typed key (shape `[]`) that everything in a run is folded from.

    Raises:
        UserError: the seed is not an integer in `[0, 2^32)`.
    """
    return jax.random.key(_index(seed, "seed"))


def fold(key: jax.Array, name: str, *indices: int | str | jax.Array) -> jax.Array:
    """A new key for one purpose: `fold(key, "sampling", item, step)`.

    Args:
        key: typed key, shape `[]` (batches through `jax.vmap`).
        name: the purpose. It is hashed (SHA-256), so purposes may be added in any order.
        indices: item, then step, and so on: integers in `[0, 2^32)`, traced integer scalars, or
            strings (hashed, as a name is). The order counts.

    Returns:
        Typed key, shape `[]`.

    Raises:
        UserError: an old-style (uint32) key, or an index that is no scalar non-negative integer.
    """
    check_typed(key)
    key = jax.random.fold_in(key, np.uint32(_hash(name)))
    for place, index in enumerate(indices):
        key = jax.random.fold_in(key, _index(index, f"index {place} of {name!r}"))
    return key


def check_typed(key: object) -> None:
    """Refuses anything but a typed key array.

    Raises:
        UserError: `key` is not an array made by `jax.random.key`.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise UserError(
            found=f"a key of type {dtype if dtype is not None else type(key).__name__}",
            expected="a typed key",
            do="make it with jax.random.key(seed), or wrap old key data with "
            "jax.random.wrap_key_data",
        )


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def _index(index: int | str | jax.Array, what: str) -> np.uint32 | jax.Array:
    if isinstance(index, str):
        return np.uint32(_hash(index))
    if isinstance(index, jax.Array):
        if index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
            raise UserError(
                found=f"{what} of shape {index.shape} and dtype {index.dtype}",
                expected="an integer scalar",
                do="use jax.vmap for a batch of items",
            )
        return index.astype(jnp.uint32)
    try:
        number = operator.index(index)
    except TypeError:
        number = -1
    if isinstance(index, bool) or not 0 <= number < _LIMIT:
        raise UserError(
            found=f"{what} = {index!r}",
            expected="an integer from 0 to 2^32 - 1",
            do="number items from 0, or give a string",
        )
    return np.uint32(number)
