"""A few large products for each block of queries, against the loop over blocks of keys."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.models.suppression import Suppression
from interp_jax.runtime.errors import UserError
from tests.models.test_fused import make_case


@pytest.mark.parametrize("extent", ["own", "all"])
@pytest.mark.parametrize(
    "case",
    [
        {"T": 300}, {"T": 300, "padding": "left", "suppressions": 2}, {"T": 130, "B": 1},
        {"T": 200, "softcap": 3.0, "window": 120}, {"T": 70, "K": 1, "G": 2, "suppressions": 1},
    ],
    ids=["ragged", "suppressed", "one row", "capped", "one key head"],
)
def test_few_products_give_what_the_loop_gives(extent, case):
    """Values, and gradients, with a few large products for each block of queries."""
    given = make_case(**case)
    if extent == "all" and case.get("padding") != "left":
        given = make_case(**case | {"S": case["T"] // 2 + 5})

    def run(extent, q, k, v):
        out, lse = given(q=q, k=k, v=v, extent=extent)
        return jnp.sum(out * out), (out, lse)

    found, expected = (
        jax.jit(jax.value_and_grad(partial(run, one), argnums=(0, 1, 2), has_aux=True))(
            *(given.arrays[name] for name in "qkv")
        )
        for one in (extent, "blocks")
    )
    (_, (out, lse)), gradients = found
    (_, (out_, lse_)), gradients_ = expected
    np.testing.assert_allclose(out, out_, atol=2e-6)
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(lse_))
    np.testing.assert_allclose(lse, lse_, atol=1e-5)
    for one, other in zip(gradients, gradients_, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("extent", ["own", "all"])
def test_few_products_leave_rows_and_idle_suppressions_alone(extent):
    """A row's bits are its own, and a suppression by nothing gives the bits of none."""
    case = make_case(T=200, B=3)
    run = jax.jit(lambda q, suppress: case(q=q, suppress=suppress, extent=extent)[0])
    q = case.arrays["q"]
    out, moved = run(q, ()), run(q.at[1:].add(1.0), ())
    np.testing.assert_array_equal(out[0], moved[0])
    assert np.any(np.asarray(out[1] != moved[1]))
    idle = Suppression(jnp.ones((3, 200), bool), jnp.ones(6, bool), jnp.zeros((3, 200)))
    np.testing.assert_array_equal(out, run(q, (idle,)))


@pytest.mark.parametrize("before", [64, 192, 320])
def test_queries_behind_their_prefix_have_the_bits_of_the_whole(before):
    """A row run from a block of queries on, behind the keys before it, hidden keys or not."""
    case = make_case(T=460, B=2, suppressions=1)
    whole = jax.jit(lambda **own: case(**own, extent="own"))
    one = case.arrays["suppress"][0]
    late = lambda a: a[:, before:]
    cut = {name: late(case.arrays[name]) for name in ("q", "lower", "upper")}
    cut["suppress"] = (Suppression(late(one.queries), one.heads, one.log_keep),)
    for found, expected in zip(whole(**cut), whole(), strict=True):
        np.testing.assert_array_equal(found, late(expected))


def test_own_columns_need_a_key_for_each_query():
    with pytest.raises(UserError, match="a key for each query"):
        make_case(T=90, S=70)(extent="own")
