"""The truncated KL of the released scores, against its closed forms and a plain loop."""

from __future__ import annotations

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.studies.thought_anchors.suppression_compat import NucleusKL

HEAT = 0.6


@partial(jax.jit, static_argnames="words")
def compared(base, other, words=None):
    """KL [C] of two arrays of logits [C, V], so many words at a time."""
    comparison, logits = NucleusKL(), jnp.stack([base, other])
    heat, total = jnp.float32(HEAT), logits.shape[-1]
    none = jnp.zeros(logits.shape[:2], jnp.float32)
    carry = comparison.start(logits, total)
    for first in range(0, total, words or total):
        part = logits[..., first : first + (words or total)]
        carry = comparison.add(carry, part, jnp.int32(first), none, None, heat)
    return comparison.finish(carry, none, None, heat)[1]


def plain(base, other, probability=0.9999, cap=100, filler=-1e9):
    """The published recipe with sets and a full sort, in float64."""

    def kept(logits):
        p = np.exp(logits / HEAT - (logits / HEAT).max())
        p /= p.sum()
        chosen, total = {}, 0.0
        for token in np.argsort(-p, kind="stable")[:cap]:
            if total >= probability:
                break
            chosen[int(token)] = float(np.float16(logits[token]))
            total += p[token]
        return chosen

    left, right = kept(np.asarray(base, np.float64)), kept(np.asarray(other, np.float64))
    union = sorted(left.keys() | right.keys())
    log = lambda own: (z := np.asarray([own.get(t, filler) for t in union]) / HEAT) - z.max() - (
        np.log(np.exp(z - z.max()).sum())
    )
    p, q = log(left), log(right)
    return float((np.exp(p) * (p - q)).sum())


@hypothesis.given(seed=st.integers(0, 999), size=st.sampled_from([0.0, 0.01, 1.0]))
@hypothesis.settings(max_examples=15, deadline=None)
def test_is_the_plain_recipe(seed, size):
    rng = np.random.default_rng(seed)
    base = rng.normal(0, rng.choice([1.0, 5.0]), (4, 300)).astype(np.float32)
    other = (base + size * rng.normal(0, 1, base.shape)).astype(np.float32)
    expected = [plain(b, o) for b, o in zip(base, other, strict=True)]
    # Float32 cannot tell which side of the nucleus a token at its very edge is on.
    clear = (to_edge(base) > 1e-6) & (to_edge(other) > 1e-6)
    for words in (None, 70):
        found = np.asarray(compared(base, other, words))
        assert np.allclose(found[clear], np.asarray(expected)[clear], rtol=1e-2, atol=1e-5)


def to_edge(logits, probability=0.9999):
    """How near the summed probability of the likeliest tokens comes to the nucleus', [C]."""
    p = np.exp(logits.astype(np.float64) / HEAT)
    p = -np.sort(-p / p.sum(axis=1, keepdims=True), axis=1)
    return np.abs(np.cumsum(p, axis=1) - probability).min(axis=1)


@pytest.mark.parametrize("p", [1e-3, 0.1])
def test_a_token_that_left_the_kept_set_counts_its_probability_times_the_filler(p):
    base = np.full((1, 200), -1e4, np.float32)
    base[0, :2] = 0, HEAT * np.log(p / (1 - p))
    other = base.copy()
    other[0, 1] = -1e3
    assert compared(base, other)[0] == pytest.approx(p * 1e9 / HEAT, rel=1e-2)


def test_equal_distributions_and_differences_beyond_the_cap_give_zero():
    rng = np.random.default_rng(0)
    base = np.sort(rng.normal(0, 1, (3, 400)).astype(np.float32), axis=1)[:, ::-1].copy()
    tail = base.copy()
    tail[:, 350:] = tail[:, 350:] * np.float32(1.0001)
    assert (np.asarray(compared(base, base)) == 0).all()
    assert (np.asarray(compared(base, tail)) == 0).all()
