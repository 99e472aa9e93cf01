"""The ring: every row once, order by key alone, the same on the host, and read again exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.dictionaries.placement import row_sharding
from interp_jax.dictionaries.ring import Ring
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import make_mesh

pytestmark = pytest.mark.core
SHAPES = {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}


def chunk(number: int, size: int) -> dict[str, jax.Array]:
    """Rows that say what they are: (chunk, row)."""
    at = np.stack([np.full(size, number), np.arange(size)], axis=1)
    return {"x": jnp.asarray(at, jnp.float32)}


def named(rows) -> list[tuple[int, int]]:
    return [tuple(row) for row in np.asarray(rows["x"]).astype(int).tolist()]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_every_row_is_drawn_once(data):
    """Whatever the order of pushes, draws and shuffles, and whatever is kept."""
    ring = Ring(24, SHAPES, jax.random.key(0), place="host")
    pushed, drawn = [], []
    for number in range(data.draw(st.integers(1, 12))):
        keep = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6)))
        if keep.sum() <= ring.free:
            assert ring.push(chunk(number, 6), keep, number) == keep.sum()
            pushed += [(number, int(i)) for i in np.flatnonzero(keep)]
        if data.draw(st.booleans()):
            ring.shuffle()
        count = data.draw(st.integers(0, ring.full))
        drawn += named(ring.draw(count))
        waiting = ring.order[ring.free :]
        assert sorted(ring.order.tolist()) == list(range(24))
        assert [tuple(o) for o in ring.origin[waiting].tolist()] == named(ring.read(waiting))
    drawn += named(ring.draw(ring.full))
    assert sorted(drawn) == sorted(pushed)
    assert len(set(drawn)) == len(drawn)


def run(ring: Ring) -> list[tuple[int, int]]:
    """Fills, shuffles, draws, and fills again; part of every chunk is left out."""
    drawn = []
    for number in range(6):
        ring.push(chunk(number, 8), np.arange(8) % 3 != 0, number)
        ring.shuffle()
        drawn += named(ring.draw(3))
    return drawn


def test_device_host_and_sharded_rings_draw_the_same_rows():
    mesh = make_mesh("data:4,model:2")
    key = jax.random.key(3)
    host = run(Ring(32, SHAPES, key, place="host"))
    assert run(Ring(32, SHAPES, key)) == host
    cut = Ring(32, SHAPES, key, sharding=row_sharding((32, 2), mesh))
    assert run(cut) == host
    assert cut.rows["x"].sharding.spec[0] == "data"
    assert run(Ring(32, SHAPES, jax.random.key(4), place="host")) != host


def test_a_shuffle_is_uniform(fresh_key):
    """Where row 0 of 6 lands in 600 shuffles: chi squared below its 99.9 % point at 5 degrees."""
    counts = np.zeros(6)
    ring = Ring(8, SHAPES, fresh_key(), place="host")
    ring.push(chunk(0, 6), np.ones(6, bool), 0)
    for _ in range(600):
        ring.shuffle()
        counts[named(ring.read(ring.order[ring.free :])).index((0, 0))] += 1
    assert np.sum((counts - 100) ** 2 / 100) < 20.5


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("place", ["device", "host"])
def test_it_comes_back_with_its_rows_or_without(rows, place):
    key = jax.random.key(5)
    ring = Ring(32, SHAPES, key, place=place)
    run(ring)
    tree = jax.tree.map(np.array, ring.tree(rows=rows))
    again = Ring(32, SHAPES, key, place=place)
    again.load(jax.tree.map(jnp.asarray, tree) if place == "device" else tree)
    if not rows:
        for number in again.live_chunks():
            again.rewrite(chunk(number, 8), np.arange(8) % 3 != 0, number)
    assert run(again) == run(ring)


def test_one_program_for_any_number_of_kept_rows(compile_counter):
    ring = Ring(64, SHAPES, jax.random.key(0))
    with compile_counter() as counter:
        for number, kept in enumerate((8, 3, 0, 5)):
            ring.push(chunk(number, 8), np.arange(8) < kept, number)
    assert counter.count_of("_store") == 1


def test_what_is_refused():
    ring = Ring(4, SHAPES, jax.random.key(0))
    with pytest.raises(UserError, match="5 rows for a ring with 4 of 4 slots free"):
        ring.push(chunk(0, 5), np.ones(5, bool), 0)
    assert ring.full == 0
    with pytest.raises(UserError, match="rows y; expected x"):
        ring.push({"y": jnp.zeros((2, 2))}, np.ones(2, bool), 0)
    ring.push(chunk(0, 3), np.ones(3, bool), 0)
    with pytest.raises(UserError, match="3 rows in the ring; expected at least 4"):
        ring.draw(4)
    with pytest.raises(UserError, match="other rows in chunk 0"):
        ring.rewrite(chunk(0, 3), np.array([True, False, True]), 0)
    with pytest.raises(UserError, match="a ring of 0 rows"):
        Ring(0, SHAPES, jax.random.key(0))
