"""Unit-norm decoder rows: closed forms of the projection, and that training keeps to them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.losses import loss
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import paper_optimiser, start, train_step
from interp_jax.dictionaries.unit_norm import unit_rows, with_unit_rows, without_parallel

pytestmark = pytest.mark.core
D, F, B = 8, 12, 16


def test_the_part_along_a_row_is_taken_out():
    decoder = jnp.asarray([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    gradient = jnp.asarray([[1.0, 2.0], [5.0, 7.0], [1.0, 1.0]])
    # (1, 2) . (0.6, 0.8) = 2.2, and (1, 2) - 2.2 (0.6, 0.8) = (-0.32, 0.24)
    told = [[-0.32, 0.24], [5.0, 0.0], [1.0, 1.0]]
    np.testing.assert_allclose(without_parallel(gradient, decoder), told, atol=1e-6)
    np.testing.assert_allclose(unit_rows(decoder), [[0.6, 0.8], [0, 1], [0, 0]], atol=1e-7)


@pytest.mark.parametrize("decode", ["dense", "sparse"])
def test_a_step_of_descent_is_projected_before_and_after(fresh_key, decode):
    """Plain gradient descent on paper: rows - rate * projected gradient, then at length 1."""
    d = with_unit_rows(sae(D, F, fresh_key(), k=3, transposed=False))
    x = jax.random.normal(fresh_key(), (B, D))
    recipe, optimiser = Recipe(unit_norm=True, decode=decode), optax.sgd(0.1)
    state = start(d, optimiser)
    after, metrics = jax.jit(lambda s, x: train_step(s, x, recipe, optimiser))(state, x)

    def of(decoder):
        arrays = d.arrays() | {"decoder": decoder}
        return loss(type(d)(d.config, arrays), x, jnp.int32(0), recipe)[0]

    rows = d.array("decoder")
    gradient = without_parallel(jax.jit(jax.grad(of))(rows), rows)
    np.testing.assert_allclose(jnp.sum(gradient * rows, -1), 0, atol=1e-6)
    moved = rows - 0.1 * gradient
    told = moved / jnp.linalg.norm(moved, axis=-1, keepdims=True)
    np.testing.assert_allclose(after.dictionary().array("decoder"), told, atol=1e-6)
    assert float(jnp.max(jnp.abs(told - rows))) > 1e-3
    assert float(metrics["gradient_norm"]) > float(jnp.linalg.norm(gradient))


def test_rows_stay_at_length_one_and_a_crosscoders_parts_may_differ(fresh_key):
    optimiser = paper_optimiser(3e-2)
    recipe = Recipe(sparsity=0.1, unit_norm=True)
    plain = Recipe(sparsity=0.1)
    d = crosscoder(2, D, F, fresh_key(), activation="relu", code_norm="none")
    x = jax.random.normal(fresh_key(), (B, 2, D)) * jnp.asarray([1.0, 0.3])[None, :, None]
    run = jax.jit(
        lambda s, recipe: jax.lax.scan(lambda s, _: train_step(s, x, recipe, optimiser), s,
                                       length=30)[0]
    )  # fmt: skip
    held = run(start(with_unit_rows(d), optimiser), recipe).dictionary()
    np.testing.assert_allclose(jnp.linalg.norm(held.array("decoder"), axis=-1), 1, rtol=1e-6)
    first, second = held.decoder_norms()
    assert float(jnp.max(jnp.abs(first - second))) > 0.05
    free = run(start(with_unit_rows(d), optimiser), plain).dictionary()
    assert float(jnp.max(jnp.abs(jnp.linalg.norm(free.array("decoder"), axis=-1) - 1))) > 0.05
