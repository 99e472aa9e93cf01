"""Where large entries stand, against a plain look at every entry."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from interp_jax.dictionaries.compaction import at_least

pytestmark = pytest.mark.core
find = jax.jit(at_least, static_argnums=2)


@pytest.mark.parametrize("size", [1, 31, 64, 150])
@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.data())
def test_every_entry_is_found_once(size, data):
    values = data.draw(hnp.arrays(np.int32, (4, size), elements=st.integers(0, 5)))
    found = find(values, jnp.int32(4), size)
    np.testing.assert_array_equal(found.counts, (values >= 4).sum(1))
    for row, columns, there in zip(values, found.columns, found.there, strict=True):
        held = np.asarray(columns)[np.asarray(there)]
        assert sorted(held) == list(np.flatnonzero(row >= 4))
        assert not np.any(np.asarray(columns)[~np.asarray(there)])


def test_a_row_that_has_more_says_so(fresh_key):
    values = jax.random.normal(fresh_key(), (3, 200))
    whole, some = find(values, jnp.float32(0.1), 200), find(values, jnp.float32(0.1), 16)
    np.testing.assert_array_equal(some.counts, whole.counts)
    assert np.all(some.counts > 16) and np.all(some.there)
    np.testing.assert_array_equal(some.columns, whole.columns[:, :16])
