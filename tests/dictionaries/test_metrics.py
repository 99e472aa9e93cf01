"""Each measure where the answer is known on paper."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries import metrics
from interp_jax.dictionaries.build import sae, transcoder
from interp_jax.dictionaries.delta import class_counts, classes, dec_norm_diff, delta
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime.errors import UserError

B, O, D, F = 12, 2, 5, 9
sums_of, summary, merge = (jax.jit(f) for f in (metrics.sums_of, metrics.summary, metrics.merge))


def data(key):
    x = 100 + jax.random.normal(key, (B, O, D)) * jnp.array([1.0, 3.0])[None, :, None]
    return x, jax.nn.relu(jax.random.normal(jax.random.fold_in(key, 1), (B, F)))


def test_perfect_mean_and_zero(fresh_key):
    x, code = data(fresh_key())
    perfect = summary(sums_of(x, x, code))
    assert float(perfect["fve"]) == 1 and float(perfect["nmse"]) == 0
    mean = summary(sums_of(x, jnp.broadcast_to(x.mean(0), x.shape), code))
    np.testing.assert_allclose(mean["fve"], 0, atol=1e-5)
    np.testing.assert_allclose(mean["nmse"], 1, rtol=1e-4)
    shifted = summary(sums_of(x, x + 3, code))  # an offset is free for fve, not for nmse
    np.testing.assert_allclose(shifted["fve"], 1, atol=1e-5)
    np.testing.assert_allclose(shifted["nmse"], 9 * x.size / np.var(x, 0).sum() / B, rtol=1e-4)


def test_half_the_signal_explains_three_quarters(fresh_key):
    x, code = data(fresh_key())
    y = x.at[:, 0].set(x[:, 0] / 2).at[:, 1].set(x[:, 1])
    found = summary(sums_of(x, y, code))
    np.testing.assert_allclose(found["fve_per_output"], [0.75, 1], atol=1e-4)
    variances = np.var(np.asarray(x), axis=0).sum(-1)
    pooled = 1 - 0.25 * variances[0] / variances.sum()
    np.testing.assert_allclose(found["fve"], pooled, atol=1e-4)


@hypothesis.settings(max_examples=4, deadline=None)
@hypothesis.given(st.integers(1, B - 1))
def test_splitting_a_batch_changes_nothing(cut):
    x, code = data(jax.random.key(3))
    y = x + jax.random.normal(jax.random.key(4), x.shape)
    whole = summary(metrics.sums_of(x, y, code))
    parts = merge(
        metrics.sums_of(x[:cut], y[:cut], code[:cut]), metrics.sums_of(x[cut:], y[cut:], code[cut:])
    )
    for name, value in summary(parts).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_scale_of_the_input_changes_nothing(fresh_key):
    x, code = data(fresh_key())
    y = x + jax.random.normal(fresh_key(), x.shape)
    a, b = summary(sums_of(x, y, code)), summary(sums_of(8 * x, 8 * y, 8 * code))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)


def test_codes_are_counted():
    code = jnp.array([[1.0, 0, 0], [2.0, 3.0, 0]])
    x = jnp.ones((2, 1, 4)) * jnp.arange(2.0)[:, None, None]
    found = summary(sums_of(x, x, code))
    assert float(found["l0"]) == 1.5
    np.testing.assert_allclose(found["dead_share"], 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(found["density"], [1, 0.5, 0])
    apart = summary(sums_of(x, x, jnp.stack([code, 0 * code], axis=1)))
    assert float(apart["l0"]) == 0.75  # per row and output
    np.testing.assert_array_equal(apart["density"], [1, 0.5, 0])


def test_the_other_explained_variance_is_another_number():
    x = jnp.array([[2.0, 0], [-2.0, 0], [0, 1.0], [0, -1.0]])[:, None]
    y = x.at[0].set(0).at[1].set(0)  # misses the two far rows
    np.testing.assert_allclose(metrics.explained_variance_per_row(x, y), [0.5])
    found = metrics.summary(metrics.sums_of(x, y, jnp.ones((4, 1))))
    np.testing.assert_allclose(found["fve"], 0.2, rtol=1e-6)
    given = metrics.explained_variance_per_row(x, y, jnp.zeros((1, 2)))
    np.testing.assert_allclose(given, [0.5])


def test_evaluation_uses_the_activations_own_space(fresh_key):
    d = sae(D, F, fresh_key(), activation="relu")
    x = jax.random.normal(fresh_key(), (B, D))
    direct = metrics.sums_of(x[:, None], d(x)[:, None], d.encode(x))
    got = jax.jit(metrics.evaluate)(d, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, direct)
    t = transcoder(D, 3, F, fresh_key(), activation="relu", skip=True)
    t = Dictionary(t.config, t.arrays() | {"skip": jnp.ones((D, 3))})
    found = metrics.summary(metrics.evaluate(t, x, t(x)))
    np.testing.assert_allclose(found["nmse"], 0, atol=1e-6)
    with pytest.raises(UserError, match="shape"):
        metrics.evaluate(t, x)


def test_silent_share(fresh_key):
    d = sae(D, F, fresh_key())
    silent = jnp.arange(F, dtype=jnp.int32) * 2_500_000
    d = Dictionary(d.config, d.arrays() | {"silent_tokens": silent})
    np.testing.assert_allclose(metrics.silent_share(d), 5 / 9, rtol=1e-6)


def test_every_measure_has_a_version(fresh_key):
    x, code = data(fresh_key())
    assert set(summary(sums_of(x, x, code))) | {"explained_variance_per_row"} == set(
        metrics.VERSIONS
    )


def test_delta_closed_forms():
    """Oracle 11, both orientations, and a latent without decoder."""
    base = jnp.array([1.0, 0, 1, 0.2, 1, 0])
    chat = jnp.array([1.0, 1, 0, 1, 0.2, 0])
    d = delta(jnp.stack([base, chat]))
    np.testing.assert_allclose(d, [0.5, 1, 0, 0.9, 0.1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(dec_norm_diff(jnp.stack([base, chat])), 1 - d)
    with pytest.raises(UserError, match="decoder norms"):
        delta(jnp.ones((3, 4)))


def test_classes_are_disjoint_and_counted_alive():
    d = jnp.array([0.05, 0.45, 0.95, 0.7, jnp.nan, 0.5, 1.0])
    found = classes(d)
    np.testing.assert_array_equal(sum(np.asarray(c, int) for c in found), 1)
    alive = jnp.array([True, True, False, True, False, False, True])
    counts = {n: int(c) for n, c in class_counts(d, alive).items()}
    assert counts == {
        "base_only": 1,
        "base_only_alive": 1,
        "shared": 2,
        "shared_alive": 1,
        "chat_only": 2,
        "chat_only_alive": 1,
        "other": 2,
        "other_alive": 1,
    }
