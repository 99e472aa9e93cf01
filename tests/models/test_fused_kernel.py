"""The GPU kernel of fused attention: its steps against the plain path, and that it lowers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.models.fused import fused_attention
from interp_jax.models.fused_backward import fused_backward
from interp_jax.models.fused_kernel import kernel_attention
from interp_jax.models.fused_kernel_backward import kernel_backward
from interp_jax.models.suppression import Suppression

NOWHERE = 2**31 - 1
pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="both sides would be the kernel"),
]

CASES = {
    "causal": {},
    "softcap, window": {"softcap": 2.0, "window": 9},
    "suppressions": {"suppressions": 2, "seed": 1},
    "any order, ragged": {"order": "any", "suppressions": 1, "softcap": 3.0, "length": 150},
    "short": {"length": 3, "context": 70},
    "one head a key head": {"key_heads": 4},
}


def operands(
    seed=0, rows=2, length=70, context=None, key_heads=2, width=16, window=None, softcap=None,
    suppressions=0, order="rising", dtype=np.float32,
):  # fmt: skip
    """Positional arguments of the kernel; the last row has fewer keys than the first."""
    rng, heads, context = np.random.default_rng(seed), 4, context or length
    at = np.arange(context)[None] < np.asarray([[context], [max(1, context // 3)]])[:rows]
    at = np.where(at, np.arange(context)[None], NOWHERE)
    if order == "any":
        at = rng.permuted(at, axis=1)
    upper = np.where(at == NOWHERE, -1, at)[:, :length]
    lower = np.zeros((rows, length)) if window is None else np.maximum(upper - window + 1, 0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    suppress = tuple(
        Suppression(
            jnp.asarray(rng.random((rows, length)) < 0.6), jnp.asarray(rng.random(heads) < 0.6),
            jnp.asarray(np.where(rng.random((rows, context)) < 0.3, -np.inf,
                                 np.log(rng.uniform(0.1, 1, (rows, context)))), jnp.float32),
        )
        for _ in range(suppressions)
    )
    ints = lambda a: jnp.asarray(a, jnp.int32)
    return (
        width**-0.5, softcap, draw(rows, length, heads, width),
        draw(rows, context, key_heads, width), draw(rows, context, key_heads, width),
        ints(lower), ints(upper), ints(at), suppress,
    )  # fmt: skip


def plain(scale, softcap, q, k, v, lower, upper, at, suppress):
    return fused_attention(
        q, k, v, lower=lower, upper=upper, key_positions=at, scale=scale, softcap=softcap,
        suppress=suppress,
    )


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_as_the_plain_path(name):
    given = operands(**CASES[name])
    scale, softcap, *arrays = given
    run = jax.jit(partial(kernel_attention, scale, softcap, interpret=True))
    for found, expected in zip(run(*arrays), plain(*given), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_same_gradients_as_the_plain_path(name):
    scale, softcap, *arrays = operands(**CASES[name])
    out, lse = plain(scale, softcap, *arrays)
    rng = np.random.default_rng(7)
    cotangents = tuple(jnp.asarray(rng.normal(size=a.shape), jnp.float32) for a in (out, lse))
    cotangents = cotangents[0], jnp.where(lse == -jnp.inf, jnp.nan, cotangents[1])
    residuals = (*arrays, out, lse)
    run = lambda rule, **more: jax.jit(partial(rule, scale, softcap, **more))(residuals, cotangents)
    found, expected = run(kernel_backward, interpret=True), run(fused_backward)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5 * (1 + np.abs(b).max()))


def test_no_key_gives_zero_and_minus_infinity():
    given = list(operands(length=20))
    given[6] = jnp.full_like(given[6], -1)
    out, lse = kernel_attention(*given, interpret=True)
    assert (out == 0).all() and (lse == -jnp.inf).all()


def test_a_suppression_of_nothing_has_the_bits_of_none():
    given = operands(suppressions=1)
    (one,) = given[-1]
    nothing = one._replace(log_keep=jnp.zeros_like(one.log_keep))
    with_it = kernel_attention(*given[:-1], (nothing,), interpret=True)
    without = kernel_attention(*given[:-1], (), interpret=True)
    for a, b in zip(with_it, without, strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("width", [16, 64, 128, 256])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_lowers_for_a_gpu(width, dtype):
    """To Triton's language, on any machine; the rest of the way needs the chip."""
    scale, _, *arrays = operands(width=width, suppressions=1, dtype=dtype, length=200)
    out = jax.ShapeDtypeStruct(arrays[0].shape, jnp.float32)
    lse = jax.ShapeDtypeStruct(arrays[0].shape[:3], jnp.float32)
    for rule, given in (
        (kernel_attention, arrays), (kernel_backward, ((*arrays, out, lse), (out, lse))),
    ):
        traced = jax.jit(partial(rule, scale, 2.0)).trace(*given)
        try:
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
        except RuntimeError as error:
            if "No supported GPU devices found" not in str(error):
                raise
            pytest.skip("from 0.12 on jax lowers a kernel only where there is a GPU")
        assert "__gpu$xla.gpu.triton" in text or "triton_kernel_call" in text
