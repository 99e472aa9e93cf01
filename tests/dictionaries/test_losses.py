"""The loss against a plain NumPy reading of the formulas, term by term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.auxiliary import add_auxiliary, auxiliary_loss
from interp_jax.dictionaries.build import crosscoder, sae, transcoder
from interp_jax.dictionaries.counts import Seen, annealed_k, apply_counts
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.losses import loss
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import split
from interp_jax.runtime.errors import UserError

pytestmark = pytest.mark.core
D, F, B, K = 6, 24, 16, 3
ZERO = jnp.int32(0)
compute = jax.jit(loss)


def moved(dictionary: Dictionary, key, **more) -> Dictionary:
    arrays = dictionary.arrays()
    for i, name in enumerate(("encoder", "encoder_bias", "decoder", "decoder_bias")):
        noise = jax.random.normal(jax.random.fold_in(key, i), arrays[name].shape)
        arrays[name] = arrays[name] + 0.2 * noise
    return Dictionary(dictionary.config, arrays | more)


def plain(d: Dictionary, x) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Code before selection, scale, arrays, in float64."""
    a = {name: np.asarray(array, np.float64) for name, array in d.arrays().items()}
    code = np.maximum(
        np.asarray(x, np.float64).reshape(B, -1) @ a["encoder"].T + a["encoder_bias"], 0
    )
    norms = np.linalg.norm(a["decoder"].reshape(F, -1, D), axis=-1)
    return code, norms.sum(1), a


def keep_largest(ranked: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(ranked.size, bool)
    mask[np.argsort(-ranked.ravel(), kind="stable")[:count]] = True
    return mask.reshape(ranked.shape) & (ranked > 0)


@pytest.mark.parametrize("squared", [False, True])
def test_l1(fresh_key, squared):
    d = moved(crosscoder(2, D, F, fresh_key(), activation="relu"), fresh_key())
    x = jax.random.normal(fresh_key(), (B, 2, D))
    code, scale, a = plain(d, x)
    error = np.asarray(x) - (code @ a["decoder"]).reshape(B, 2, D) - a["decoder_bias"]
    each = np.linalg.norm(error, axis=-1)
    reconstruction = np.mean(each**2 if squared else each)
    sparsity = np.mean(np.sum(code * scale, axis=1))
    total, (metrics, _) = compute(d, x, ZERO, Recipe(sparsity=0.041, squared=squared))
    np.testing.assert_allclose(total, reconstruction + 0.041 * sparsity, rtol=1e-5)
    np.testing.assert_allclose(metrics["sparsity"], sparsity, rtol=1e-5)


@pytest.mark.parametrize("number", [1, 3, 5, 12, 13, F])
def test_batch_topk_with_dead_latents(fresh_key, number):
    """Width 6: up to 3 dead latents are gathered, up to 12 gathered and ranked, more ranked."""
    dead = np.zeros(F, bool)
    dead[np.random.default_rng(number).choice(F, number, replace=False)] = True
    silent = jnp.where(jnp.asarray(dead), 10_000_000, 9_999_999).astype(jnp.int32)
    start = crosscoder(2, D, F, fresh_key(), k=K)
    d = moved(start, fresh_key(), silent_tokens=silent)
    x = jax.random.normal(fresh_key(), (B, 2, D))
    code, scale, a = plain(d, x)
    mask = keep_largest(code * scale, K * B)
    kept = np.where(mask, code, 0)
    error = np.asarray(x) - (kept @ a["decoder"]).reshape(B, 2, D) - a["decoder_bias"]
    ranked = np.where(dead, code * scale, 0)
    again = np.zeros((B, F))
    for row in range(B):
        best = keep_largest(ranked[row], min(D // 2, dead.sum()))
        again[row] = np.where(best, code[row], 0)
    flat = error.reshape(B, -1)
    auxiliary = np.mean(np.sum((flat - again @ a["decoder"]) ** 2, 1))
    auxiliary /= np.mean(np.sum((flat - flat.mean(0)) ** 2, 1))
    reconstruction = np.mean(np.linalg.norm(error, axis=-1))
    total, (metrics, seen) = compute(d, x, ZERO, Recipe())
    np.testing.assert_allclose(metrics["auxiliary"], auxiliary, rtol=1e-4)
    np.testing.assert_allclose(total, reconstruction + auxiliary / 32, rtol=1e-5)
    np.testing.assert_allclose(metrics["dead"], dead.mean())
    assert float(metrics["l0"]) == K  # exactly, with enough positives
    np.testing.assert_array_equal(seen.fired, mask.any(0))
    np.testing.assert_allclose(seen.smallest, (kept * scale)[mask].min(), rtol=1e-5)
    assert int(seen.tokens) == B


def test_decoupled_codes_are_kept_and_thresholded_per_output(fresh_key):
    d = moved(crosscoder(2, D, F, fresh_key(), k=K, code_norm="decoupled"), fresh_key())
    x = jax.random.normal(fresh_key(), (B, 2, D))
    code, _, a = plain(d, x)
    rows = a["decoder"].reshape(F, 2, D)
    terms, smallest, fired = [], [], np.zeros(F, bool)
    for o in range(2):
        scaled = code * np.linalg.norm(rows[:, o], axis=1)
        mask = keep_largest(scaled, K * B)
        out = np.where(mask, code, 0) @ rows[:, o] + a["decoder_bias"][o]
        terms.append(np.linalg.norm(np.asarray(x)[:, o] - out, axis=1).mean())
        smallest.append(scaled[mask].min())
        fired |= mask.any(0)
    total, (metrics, seen) = compute(d, x, ZERO, Recipe())
    np.testing.assert_allclose(total, np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(seen.smallest, smallest, rtol=1e-5)
    np.testing.assert_array_equal(seen.fired, fired)
    assert float(metrics["l0"]) == K
    after = apply_counts(split(d).counts, seen, jnp.int32(2000), Recipe())
    np.testing.assert_array_equal(after["threshold"].get_value(), seen.smallest)


def test_auxiliary_edges(fresh_key):
    """Oracle 8: zero without dead latents; one when they explain nothing of a centred residual."""
    d = moved(sae(D, F, fresh_key(), k=K), fresh_key())
    silent = Dictionary(d.config, d.arrays() | {"encoder_bias": jnp.full(F, -1e4)})
    x, error = jax.random.normal(fresh_key(), (2, B, 1, D))
    error = error - error.mean(0, keepdims=True)
    none_dead = jnp.zeros(F, bool)
    explain = jax.jit(lambda d, e, dead: auxiliary_loss(d, x, e, dead, Recipe()))
    assert float(explain(d, error, none_dead)) == 0
    np.testing.assert_allclose(explain(silent, error, ~none_dead), 1, rtol=1e-6)
    # A residual without spread: 0 / 0 counts as 0.
    assert float(explain(d, error * 0, ~none_dead)) == 0


@pytest.mark.parametrize("number", [2, 5, 14])
def test_auxiliary_target_carries_no_gradient(fresh_key, number):
    silent = jnp.where(jnp.arange(F) < number, 10_000_000, 0).astype(jnp.int32)
    d = moved(sae(D, F, fresh_key(), k=K), fresh_key(), silent_tokens=silent)
    x = jax.random.normal(fresh_key(), (B, D))
    graph, params, counts = split(d)

    def auxiliary(error, params):
        from flax import nnx

        whole = nnx.merge(graph, params, counts)
        return auxiliary_loss(whole, x[:, None], error, silent > 5, Recipe())

    to_error, to_params = jax.jit(jax.grad(auxiliary, argnums=(0, 1)))(x[:, None], params)
    assert not np.any(to_error)
    touched = np.any(np.asarray(to_params["decoder"].get_value()), axis=1)
    assert touched[:number].any() and not touched[number:].any()


@pytest.mark.parametrize("number", [2, 5, 14])
def test_auxiliary_gradients_are_those_of_the_formula(fresh_key, number):
    """Whether dead latents are gathered, gathered and ranked, or ranked among all."""
    from flax import nnx

    dead = jnp.arange(F) % 24 < number
    d = moved(sae(D, F, fresh_key(), k=K), fresh_key())
    x, error = jax.random.normal(fresh_key(), (2, B, D))
    graph, params, counts = split(d)

    def ours(params):
        d = nnx.merge(graph, params, counts)
        return auxiliary_loss(d, x[:, None], error[:, None], dead, Recipe())

    def formula(params):
        d = nnx.merge(graph, params, counts)
        code = d.activate(d.linear(d.read(x[:, None])))
        ranked = jnp.where(dead[None], code * d.scale()[None], 0.0)
        edge = jnp.sort(ranked, axis=1)[:, F - min(D // 2, number)]
        kept = jnp.where((ranked >= edge[:, None]) & (ranked > 0), code, 0.0)
        left = jnp.sum(jnp.square(error - kept @ d.array("decoder")), axis=1)
        spread = jnp.sum(jnp.square(error - error.mean(0, keepdims=True)), axis=1)
        return jnp.mean(left) / jnp.mean(spread)

    (a, ours), (b, theirs) = (
        jax.jit(jax.value_and_grad(f))(params) for f in (ours, formula)
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert np.any(theirs["encoder"].get_value()) and np.any(theirs["decoder"].get_value())
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_matryoshka_is_the_mean_over_prefixes(fresh_key):
    d = moved(sae(D, F, fresh_key(), k=K, prefixes=(4, 10, F)), fresh_key())
    x = jax.random.normal(fresh_key(), (B, D))
    code, _, a = plain(d, x)
    kept = np.where(keep_largest(code, K * B), code, 0)
    terms = [
        np.mean(np.linalg.norm(x - kept[:, :n] @ a["decoder"][:n] - a["decoder_bias"], axis=-1))
        for n in (4, 10, F)
    ]
    total, _ = compute(d, x, ZERO, Recipe())
    np.testing.assert_allclose(total, np.mean(terms), rtol=1e-5)


def test_gated_and_jumprelu_terms(fresh_key):
    x = jax.random.normal(fresh_key(), (B, D))
    g = moved(sae(D, F, fresh_key(), activation="gated", code_norm="sae"), fresh_key())
    gate, scale, a = plain(g, x)
    z = np.asarray(x, np.float64) @ a["encoder"].T
    code = (gate > 0) * np.maximum(z, 0)
    main = np.sum((x - code @ a["decoder"] - a["decoder_bias"]) ** 2, 1).mean()
    frozen = np.sum((x - gate @ a["decoder"] - a["decoder_bias"]) ** 2, 1).mean()
    l1 = np.mean(np.sum(gate * scale, 1))
    total, _ = compute(g, x, ZERO, Recipe(sparsity=0.1, squared=True))
    np.testing.assert_allclose(total, main + 0.1 * l1 + frozen, rtol=1e-5)
    level = jnp.full(F, 0.7)
    j = moved(sae(D, F, fresh_key(), activation="jumprelu"), fresh_key(), jump_threshold=level)
    code, _, a = plain(j, x)
    code = np.where(code > 0.7, code, 0)
    main = np.sum((x - code @ a["decoder"] - a["decoder_bias"]) ** 2, 1).mean()
    total, (metrics, _) = compute(j, x, ZERO, Recipe(sparsity=0.1, squared=True))
    np.testing.assert_allclose(total, main + 0.1 * (code > 0).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["l0"], (code > 0).sum(1).mean(), rtol=1e-6)


def test_transcoder_needs_and_uses_its_target(fresh_key):
    t = moved(transcoder(D, 4, F, fresh_key(), k=K, skip=True), fresh_key())
    x, y = jax.random.normal(fresh_key(), (B, D)), jax.random.normal(fresh_key(), (B, 4))
    total, _ = compute(t, x, ZERO, Recipe(), y)
    expected = jnp.mean(jnp.linalg.norm(y - jax.jit(lambda t, x: t(x, "training"))(t, x), axis=-1))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    with pytest.raises(UserError, match="target"):
        loss(t, x, ZERO, Recipe())


def test_perfect_reconstruction_has_a_gradient(fresh_key):
    d = crosscoder(2, D, F, fresh_key(), activation="relu")
    graph, params, counts = split(d)
    x = jnp.zeros((B, 2, D))

    def of(params):
        from flax import nnx

        return loss(nnx.merge(graph, params, counts), x, ZERO, Recipe(sparsity=0.1))[0]

    gradient = jax.jit(jax.grad(of))(params)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient))


def test_threshold_follows_the_smallest_kept_value(fresh_key):
    """Oracle 6."""
    counts = split(sae(D, F, fresh_key(), k=K)).counts
    recipe = Recipe()
    seen = lambda m: Seen(jnp.zeros(F, bool), jnp.float32(m), jnp.int32(B))
    at = lambda counts, m, step: apply_counts(counts, seen(m), jnp.int32(step), recipe)
    threshold = lambda counts: float(counts["threshold"].get_value())
    assert threshold(at(counts, 0.5, 1000)) == -1  # not before step 1001
    first = at(counts, 0.5, 1001)
    assert threshold(first) == 0.5
    assert threshold(at(at(first, 0.5, 1002), 0.5, 1003)) == pytest.approx(0.5)
    assert threshold(at(first, 1.5, 1002)) == pytest.approx(0.999 * 0.5 + 0.001 * 1.5)
    assert threshold(at(first, jnp.inf, 1002)) == 0.5  # nothing positive was kept
    assert threshold(counts) == -1  # the caller's state is its own


def test_dead_counters(fresh_key):
    counts = split(sae(D, F, fresh_key(), k=K)).counts
    fired = jnp.arange(F) == 2
    for _ in range(3):
        counts = apply_counts(counts, Seen(fired, jnp.float32(1), jnp.int32(B)), ZERO, Recipe())
    np.testing.assert_array_equal(
        counts["silent_tokens"].get_value(), np.where(np.arange(F) == 2, 0, 3 * B)
    )


def test_annealed_k():
    at = lambda step, recipe: int(annealed_k(jnp.int32(10), jnp.int32(step), recipe))
    assert [at(s, Recipe()) for s in (0, 5)] == [10, 10]
    assert [at(s, Recipe(k_start=50)) for s in (0, 5)] == [10, 10]  # no steps: k, not k_start
    falling = Recipe(k_start=50, k_steps=4)
    assert [at(s, falling) for s in (0, 1, 2, 4, 9)] == [50, 40, 30, 10, 10]


@pytest.mark.parametrize("number", [0, 2, 5, 14])
@pytest.mark.parametrize("centred", [False, True])
def test_the_auxiliary_gradient_is_added_in_place(fresh_key, number, centred):
    """What a training step does gives what autodiff gives, on top of what was there."""
    from flax import nnx

    dead, recipe = jnp.arange(F) % 24 < number, Recipe(auxiliary=0.3)
    d = moved(sae(D, F, fresh_key(), k=K, centred=centred), fresh_key())
    x, error = jax.random.normal(fresh_key(), (2, B, 1, D))
    graph, params, counts = split(d)

    def of(params):
        d = nnx.merge(graph, params, counts)
        return 0.3 * auxiliary_loss(d, x, error, dead, recipe)

    value, gradient = jax.jit(jax.value_and_grad(of))(params)
    ones = jax.tree.map(jnp.ones_like, params)
    own, after = jax.jit(add_auxiliary)(ones, d, x, error, dead, recipe)
    np.testing.assert_allclose(0.3 * own, value, rtol=1e-6)
    assert (number > 0) == bool(np.any(gradient["decoder"].get_value()))
    expected = jax.tree.map(jnp.add, ones, gradient)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
