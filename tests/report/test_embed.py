"""Data in a page: read back unchanged, and no text in it can end its element."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.report.embed import embed_json, plain
from interp_jax.runtime.errors import UserError

HOSTILE = st.sampled_from(
    ["</script>", "<!--", "<script>", "\u2028", "]]>", "&lt;", "\ud800", "\0"]
)
TEXT = st.one_of(HOSTILE, st.text(max_size=8), st.tuples(HOSTILE, st.text(max_size=4)).map("".join))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_text_is_safe_in_a_script_element_and_reads_back(value):
    text = embed_json(value)
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_arrays_become_lists_and_nan_becomes_null():
    data = {
        "numpy": np.array([[1.5, np.nan]], np.float32),
        "jax": jnp.arange(2, dtype=jnp.int32),
        "bf16": jnp.ones((1,), jnp.bfloat16),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "pair": (1, float("nan")),
    }
    assert plain(data) == {
        "numpy": [[1.5, None]],
        "jax": [0, 1],
        "bf16": [1.0],
        "scalar": 0.5,
        "flag": True,
        "pair": [1, None],
    }


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [0.0, float("inf")]}, r"data\.a\[1\]"),
        ({"a": np.array([-np.inf])}, r"data\.a\[0\]"),
        ({"a": {1: 2}}, r"key 1 in data\.a"),
        ({"a": object()}, r"object at data\.a"),
        ({"a": {"b": {1, 2}}}, r"set at data\.a\.b"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_place(value, place):
    with pytest.raises(UserError, match=place):
        embed_json(value)
