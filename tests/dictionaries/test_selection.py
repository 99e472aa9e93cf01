"""Selection against a full sort: ties, shortages, both searches, traced counts, eight devices."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from interp_jax.dictionaries.selection import _search, pairs_of_batch, top_of_batch, top_of_rows
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh, named_sharding

SHAPE = (5, 12)
# Few levels, so that ties at the edge are the rule; zeros and negatives are never kept.
LEVELS = st.sampled_from([-2.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 1.0000001, 3.0, 1e30, np.inf])
VALUES = hnp.arrays(np.float32, SHAPE, elements=LEVELS)

whole = jax.jit(top_of_batch)
near = jax.jit(lambda values, count: top_of_batch(values, count, 4))
rows = jax.jit(top_of_rows)
pairs = jax.jit(lambda values, count: pairs_of_batch(values, count, 20))


def sorted_mask(values: np.ndarray, count: int) -> np.ndarray:
    """By a full, stable sort."""
    flat = values.ravel()
    order = [i for i in np.lexsort((np.arange(flat.size), -flat)) if flat[i] > 0]
    mask = np.zeros(flat.size, bool)
    mask[order[:count]] = True
    return mask.reshape(values.shape)


def flushed(values: np.ndarray) -> np.ndarray:
    """Denormals as this machine's XLA sees them: it may flush them to zero."""
    return np.asarray(jax.jit(lambda x: jnp.where(x > 0, x, 0.0))(values))


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(VALUES, st.integers(0, 70))
def test_batch_equals_a_full_sort(values, count):
    expected = sorted_mask(flushed(values), count)
    for select in (whole, near):
        np.testing.assert_array_equal(np.asarray(select(values, jnp.int32(count))), expected)
    assert expected.sum() == min(count, (flushed(values) > 0).sum())


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(VALUES, st.integers(0, 13))
def test_rows_equal_a_full_sort_of_each(values, count):
    expected = np.stack([sorted_mask(row[None], count)[0] for row in flushed(values)])
    np.testing.assert_array_equal(np.asarray(rows(values, jnp.int32(count))), expected)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(VALUES, st.integers(0, 40))
def test_pairs_are_the_mask_row_by_row(values, count):
    """With room for 20."""
    found = pairs(values, jnp.int32(count))
    places = np.asarray(found.places)[np.asarray(found.there)]
    mask = sorted_mask(flushed(values), min(count, 20))
    np.testing.assert_array_equal(np.bincount(places, minlength=mask.size), mask.ravel())
    np.testing.assert_array_equal(found.counts, mask.sum(1))
    assert np.all(np.diff(places // SHAPE[1]) >= 0)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_an_edge_guessed_from_a_sample_is_exact(fresh_key, monkeypatch, spread):
    """Rows alike, or one that has most of what is kept."""
    monkeypatch.setattr("interp_jax.dictionaries.selection._SAMPLE", 512)
    values = jax.random.normal(fresh_key(), (64, 96)).at[5].multiply(spread)
    found = jax.jit(lambda v: pairs_of_batch(v, jnp.int32(300), 300))(values)
    mask = sorted_mask(np.asarray(values), 300)
    places = np.asarray(found.places)[np.asarray(found.there)]
    np.testing.assert_array_equal(np.sort(places), np.flatnonzero(mask))
    for room in (300, 3):  # too little room: the guess is not taken
        near = jax.jit(lambda v, room=room: top_of_batch(v, jnp.int32(300), room))(values)
        np.testing.assert_array_equal(near, mask)


def test_a_count_under_vmap_is_traced(fresh_key, compile_counter):
    values = jax.random.normal(fresh_key(), SHAPE)
    many = jax.jit(jax.vmap(top_of_batch, in_axes=(None, 0)))
    counts = jnp.array([0, 7, 60])
    many(values, counts + 1)
    with compile_counter() as counter:
        masks = many(values, counts)
    assert counter.count == 0
    for mask, count in zip(masks, (0, 7, 60), strict=True):
        np.testing.assert_array_equal(mask, sorted_mask(np.asarray(values), count))


def test_sharded_over_latents_and_rows(fresh_key):
    values = jnp.round(4 * jax.random.normal(fresh_key(), (8, 16))) / 4
    mesh = make_mesh("data:2,model:4")
    placed = jax.device_put(values, named_sharding("BF", mesh))
    mask = whole(placed, jnp.int32(20))
    np.testing.assert_array_equal(mask, sorted_mask(np.asarray(values), 20))


def test_not_a_number_is_never_kept():
    values = jnp.array([[jnp.nan, 1.0, -jnp.inf, 2.0]])
    np.testing.assert_array_equal(whole(values, jnp.int32(4)), [[False, True, False, True]])


def test_other_dtypes_are_refused():
    with pytest.raises(UserError, match="float32"):
        top_of_batch(jnp.ones((2, 2), jnp.bfloat16), jnp.int32(1))


@pytest.mark.parametrize("ways", [2, 3, 16])
def test_search_with_any_number_of_parts(ways):
    edges = np.asarray([-1, 0, 1, 6, 7, 1000, 2**31 - 4])
    low = jnp.full(len(edges), -1, jnp.int32)
    high = jnp.asarray(np.minimum(edges + np.arange(1, 8), 2**31 - 2), jnp.int32)
    holds = lambda points: [t <= jnp.asarray(edges, jnp.int32) for t in points]
    found = jax.jit(lambda: _search(low, high, holds, ways))
    np.testing.assert_array_equal(np.asarray(found()), edges)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(VALUES, st.integers(0, 70))
def test_many_counts_in_a_pass_select_the_same(values, count):
    many = jax.jit(lambda values, count: top_of_batch(values, count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp_jax.dictionaries.selection._ways", lambda: 16)
        found = many(values, jnp.int32(count))
    np.testing.assert_array_equal(np.asarray(found), sorted_mask(flushed(values), count))
