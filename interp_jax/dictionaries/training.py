"""One training step, pure: state in, state out. For `jit`, `scan`, and `vmap` over dictionaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from interp_jax.dictionaries.auxiliary import add_auxiliary
from interp_jax.dictionaries.counts import apply_counts
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.losses import Metrics, main_loss, with_auxiliary
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.unit_norm import project_gradient, project_params


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "counts", "optimiser", "step"],
    meta_fields=["graph"],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A dictionary in training. A pytree; stack several and `vmap` the step over them.

    Attributes:
        graph: the module's static structure.
        params: what the gradient moves.
        counts: what is counted, and the normaliser's statistics.
        optimiser: optax state.
        step: int32 [], the number of the next step.
    """

    graph: nnx.GraphDef
    params: nnx.State
    counts: nnx.State
    optimiser: optax.OptState
    step: jax.Array

    def dictionary(self) -> Dictionary:
        """The dictionary as it stands."""
        return nnx.merge(self.graph, self.params, self.counts)


class Split(NamedTuple):
    """A dictionary taken apart before the gradient."""

    graph: nnx.GraphDef
    params: nnx.State
    counts: nnx.State


def split(dictionary: Dictionary) -> Split:
    """Static structure, what is trained, what is counted; `nnx.merge` puts them together."""
    return Split(*nnx.split(dictionary, nnx.Param, ...))


def start(dictionary: Dictionary, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    graph, params, counts = split(dictionary)
    return TrainState(graph, params, counts, optimiser.init(params), jnp.zeros((), jnp.int32))


def train_step(
    state: TrainState,
    x: jax.Array,
    recipe: Recipe,
    optimiser: optax.GradientTransformation,
    target: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """Loss, gradient, update, counts.

    Args:
        state: before.
        x: [..., M, D], or [..., D] at M = 1.
        recipe: coefficients and structure.
        optimiser: optax transformation; clip the global norm in it.
        target: as in `loss`.

    Returns:
        the state after, and the step's metrics with `gradient_norm` added, of the gradient that
        the optimiser is given.
    """

    def of(params):
        dictionary = nnx.merge(state.graph, params, state.counts)
        return main_loss(dictionary, x, state.step, recipe, target)

    (_, (metrics, seen, left)), gradient = jax.value_and_grad(of, has_aux=True)(state.params)
    if left is not None:
        auxiliary, gradient = add_auxiliary(gradient, state.dictionary(), *left, recipe)
        metrics = with_auxiliary(metrics, auxiliary, recipe)
    if recipe.unit_norm:
        gradient = project_gradient(gradient, state.params)
    # optax counts in integers beside floats.
    with jax.numpy_dtype_promotion("standard"):
        updates, after = optimiser.update(gradient, state.optimiser, state.params)
        params: Any = optax.apply_updates(state.params, updates)
    if recipe.unit_norm:
        params = project_params(params)
    counts = apply_counts(state.counts, seen, state.step, recipe)
    metrics = metrics | {"gradient_norm": _global_norm(gradient)}
    return TrainState(state.graph, params, counts, after, state.step + 1), metrics


def _global_norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def warmed_up(
    rate: float,
    steps: int = 1000,
    decay_from: int | None = None,
    end: int = 0,
    restart: int | None = None,
):
    """Learning rate over steps: min(step / steps, 1) * rate, so step 0 has none.

    Args:
        rate: the full rate; with F latents the reference takes 2e-4 / sqrt(F / 16384) by default.
        steps: of linear warm-up.
        decay_from: step from which it falls linearly to 0 at `end`; None: never.
        end: the last step, for the decay.
        restart: the warm-up starts anew every so many steps, as after `resample`; None: never.
    """

    def schedule(step: jax.Array) -> jax.Array:
        since = step if restart is None else step % restart
        value = rate * jnp.minimum(since / max(steps, 1), 1.0)
        if decay_from is not None:
            value = value * jnp.clip((end - step) / (end - decay_from), 0.0, 1.0)
        return value

    return schedule


def paper_optimiser(
    rate: float | Callable = 1e-4, clip: float | None = 1.0
) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, 1e-8) under a clip of the global gradient norm (None: none, as for L1)."""
    adam = optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)
    return adam if clip is None else optax.chain(clip_by_global_norm(clip), adam)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """As optax's of that name, by one factor: its division is not fused into Adam, so that on a
    CPU each step would write a clipped copy of the whole gradient."""

    def update(gradient, state, params=None):
        del params
        factor = jnp.minimum(1.0, limit / _global_norm(gradient))
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), gradient), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
