"""Attention that sums its weights on the way = dense attention, summed afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.models.attention_pooled import Pooling, pooled_attention
from interp_jax.models.fused import fused_attention
from interp_jax.models.suppression import Suppression

B, H, K, HD = 2, 4, 2, 8
SCALE, CAP = 0.4, 3.0


def dense(q, k, v, lower, upper, positions, suppression, cap):
    """float64 (weights [B, H, T, S], out [B, T, H, hd])."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    k, v = (np.repeat(a, H // K, axis=2) for a in (k, v))
    scores = SCALE * np.einsum("bthd,bshd->bhts", q, k)
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    hit = suppression.queries[:, None, :, None] & suppression.heads[None, :, None, None]
    scores = scores + np.where(hit, suppression.log_keep[:, None, None, :], 0.0)
    at = positions[:, None, :]
    seen = (lower[:, :, None] <= at) & (at <= upper[:, :, None])
    weights = np.where(seen[:, None], np.exp(scores - 20.0), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    return weights, np.einsum("bhts,bshd->bthd", weights, v)


def operands(seed: int, length: int):
    """Ragged rows with a window, a suppression and two poolings."""
    rng = np.random.default_rng(seed)
    normal = lambda heads: rng.standard_normal((B, length, heads, HD)).astype(np.float32)
    own = np.asarray([length, int(rng.integers(1, length))])
    at = np.broadcast_to(np.arange(length, dtype=np.int32), (B, length))
    valid = at < own[:, None]
    upper = np.where(valid, at, -1).astype(np.int32)
    lower = np.maximum(at - int(rng.integers(4, length)), 0).astype(np.int32)
    positions = np.where(valid, at, 2**31 - 1).astype(np.int32)
    keep = np.log(rng.uniform(0.1, 1, (B, length))).astype(np.float32)
    keep[:, :3] = -np.inf
    suppression = Suppression(
        rng.random((B, length)) < 0.7, np.asarray([True, False, True, True]), keep
    )
    sets = lambda count: rng.random((B, count, length)) < 0.2
    pools = [Pooling(sets(3), sets(5)), Pooling(sets(2), sets(1))]
    return (normal(H), normal(K), normal(K), lower, upper, positions), suppression, pools


@jax.jit
def attend(arrays, suppression, pools):
    q, k, v, lower, upper, positions = arrays
    return pooled_attention(
        q, k, v, lower=lower, upper=upper, key_positions=positions, scale=SCALE, softcap=CAP,
        suppress=(suppression,), pools=pools,
    )  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), length=st.sampled_from([5, 150]))
def test_sums_and_outputs_are_those_of_dense_attention(seed, length):
    """150 is three blocks of queries by three of keys; 5 is one that is mostly padding."""
    arrays, suppression, pools = operands(seed, length)
    out, seeing, sums = attend(arrays, suppression, pools)
    weights, expected = dense(*arrays, suppression, CAP)
    assert np.allclose(out, expected, atol=2e-6)
    assert np.array_equal(seeing, (weights > 0).any(-1).swapaxes(1, 2))
    for pool, found in zip(pools, sums, strict=True):
        wanted = np.einsum("bmt,bhts,bns->bhmn", pool.queries, weights, pool.keys)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 1e-6 * max(1.0, np.abs(wanted).max())


def test_gradients_are_those_of_dense_attention():
    """Through the outputs and through the sums, to q, k, v and what a suppression keeps."""
    arrays, suppression, pools = operands(3, 70)
    suppression = suppression._replace(log_keep=np.maximum(suppression.log_keep, -4))
    seen = (arrays[3][:, :, None] <= arrays[5][:, None]) & (
        arrays[5][:, None] <= arrays[4][:, :, None]
    )
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((B, 70, H, HD)), rng.standard_normal((B, H, 3, 5))
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)

    def ours(q, k, v, keep):
        out, _, sums = attend((q, k, v, *arrays[3:]), suppression._replace(log_keep=keep), pools)
        return jnp.sum(a * out) + jnp.sum(b * sums[0])

    def plain(q, k, v, keep):
        k, v = (jnp.repeat(x, H // K, axis=2) for x in (k, v))
        scores = CAP * jnp.tanh(SCALE * jnp.einsum("bthd,bshd->bhts", q, k) / CAP)
        hit = suppression.queries[:, None, :, None] & suppression.heads[None, :, None, None]
        scores = scores + jnp.where(hit, keep[:, None, None, :], 0.0)
        weights = jnp.where(seen[:, None], jnp.exp(scores), 0.0)
        total = weights.sum(-1, keepdims=True)
        weights = weights / jnp.where(total == 0, 1.0, total)
        first = pools[0]
        sums = jnp.einsum(
            "bmt,bhts,bns->bhmn", first.queries.astype(np.float32), weights,
            first.keys.astype(np.float32),
        )  # fmt: skip
        out = jnp.einsum("bhts,bshd->bthd", weights, v)
        return jnp.sum(a * out) + jnp.sum(b * sums)

    at = (*arrays[:3], suppression.log_keep)
    found = jax.jit(jax.grad(ours, (0, 1, 2, 3)))(*at)
    wanted = jax.jit(jax.grad(plain, (0, 1, 2, 3)))(*at)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_are_those_of_the_fused_path(dtype):
    """In bfloat16 too: keys and values rounded alike, weights summed in float32."""
    arrays, suppression, pools = operands(5, 150)
    q, k, v = (jnp.asarray(a, dtype) for a in arrays[:3])
    out, seeing, sums = attend((q, k, v, *arrays[3:]), suppression, pools)
    lower, upper, positions = arrays[3:]
    fused, lse = fused_attention(
        q, k, v, lower=lower, upper=upper, key_positions=positions, scale=SCALE, softcap=CAP,
        suppress=(suppression,),
    )  # fmt: skip
    assert out.dtype == fused.dtype == jnp.float32
    assert np.allclose(out, fused, atol=1e-6)
    assert np.array_equal(seeing, np.isfinite(lse))
    rounded = [np.asarray(a.astype(jnp.float32)) for a in (q, k, v)]
    weights, _ = dense(*rounded, *arrays[3:], suppression, CAP)
    wanted = np.einsum("bmt,bhts,bns->bhmn", pools[0].queries, weights, pools[0].keys)
    assert np.abs(sums[0] - wanted).max() <= 1e-5 * np.abs(wanted).max()
