"""Provenance survives a trip through JSON; hashes see every change that matters."""

from __future__ import annotations

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import Provenance, hash_arrays, hash_file

pytestmark = pytest.mark.core


def test_a_trip_through_json():
    made = Provenance(
        model="tiny",
        weights="ab",
        tokenizer="cd",
        dtype="float32",
        seed=3,
        site="resid_post[4]",
        data="generator",
        config={"layers": [1, 2]},
    )
    fields = json.loads(json.dumps(made.to_json()))
    assert Provenance.from_json(fields) == made
    assert fields["versions"]["jax"] == jax.__version__
    with pytest.raises(UserError, match="extra"):
        Provenance.from_json({**fields, "extra": 1})
    del fields["versions"]
    with pytest.raises(UserError, match="versions"):
        Provenance.from_json(fields)


def test_a_file_hash_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_an_array_hash_sees_names_dtypes_shapes_and_values():
    base = {"b": np.arange(6, dtype=np.float32), "a": jnp.ones(2, jnp.bfloat16)}
    same = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.arange(6, dtype=jnp.float32)}
    assert hash_arrays(base) == hash_arrays(same)
    others = [
        {"c": base["b"], "a": base["a"]},
        {**base, "b": base["b"].reshape(2, 3)},
        {**base, "b": base["b"].view(np.int32)},
        {**base, "b": -base["b"]},
        {**base, "s": np.float32(0)},
    ]
    assert len({hash_arrays(tree) for tree in [base, *others]}) == 1 + len(others)
    # A transposed view has the values of its own order.
    square = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert hash_arrays(square.T) == hash_arrays(np.ascontiguousarray(square.T))
