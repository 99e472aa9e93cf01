"""Resampling of dead latents in L1 training (Bricken et al. 2023, "Towards Monosemanticity").

A latent that has been silent for long gets a new direction: that of an input which the
dictionary explains badly, drawn with probability proportional to its squared loss. Its encoder
row gets 0.2 of the mean norm of alive rows, its bias 0, its decoder row length 1, and the
optimiser forgets what it knew of it.

Three things the paper leaves open. Inputs are drawn without replacement, so that no two latents
become one; with more dead latents than inputs, the rest stay dead until the next time. "Input"
is what the encoder's matrix meets: normalised, and less the decoder bias where the dictionary
is centred. In a crosscoder each model's part is scaled on its own: every part of the encoder row
to 0.2 of that part's mean alive norm, every part of the decoder row to length 1.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from interp_jax.dictionaries.activations import safe_norm
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import TrainState
from interp_jax.runtime.errors import UserError


def row_losses(
    dictionary: Dictionary, x: jax.Array, recipe: Recipe, by: Literal["loss", "error"] = "loss"
) -> jax.Array:
    """The training loss of each row, float32 [B]; `error` leaves the sparsity term out.

    Reconstruction is the mean over outputs of the error's norm, or of its square
    (`recipe.squared`), in normalised space, as in `losses.loss`.
    """
    rows = dictionary.normalise(dictionary.rows(x))
    linear = dictionary.linear(dictionary.read(rows))
    code = dictionary.activate(linear)
    out = dictionary.decode_rows(code) + dictionary.array("decoder_bias")[None]
    error = rows - out
    if recipe.squared:
        loss = jnp.mean(jnp.sum(jnp.square(error), axis=-1), axis=-1)
    else:
        loss = jnp.mean(safe_norm(error), axis=-1)
    if by == "error":
        return loss
    return loss + recipe.sparsity * jnp.sum(dictionary.scaled(code), axis=-1)


def resample(
    state: TrainState,
    x: jax.Array,
    key: jax.Array,
    recipe: Recipe,
    optimiser: optax.GradientTransformation,
    *,
    encoder_share: jax.Array | float = 0.2,
    by: Literal["loss", "error"] = "loss",
) -> tuple[TrainState, jax.Array]:
    """Gives dead latents new directions. Pure; call it every so many steps.

    Args:
        state: before. A latent is dead when `recipe.dead_after` tokens passed without it.
        x: inputs to draw from, [..., M, D] or [..., D] at M = 1; many (the paper took 819,200).
        key: typed key.
        recipe: as in training.
        optimiser: the one of training; its state is searched for what belongs to parameters.
        encoder_share: of the mean norm of alive encoder rows. Crosscoder code elsewhere: 0.05.
        by: what is squared: the whole `loss` (the paper), or the `error` alone.

    Returns:
        the state after, and int32 [], how many latents were given a direction.

    Raises:
        UserError: another activation than `relu`, outputs unlike the inputs, or nested prefixes.
    """
    dictionary = state.dictionary()
    c = dictionary.config
    same = (c.inputs, c.width) == (c.outs, c.out_width) and len(c.read_inputs) == c.inputs
    if c.activation != "relu" or c.skip or c.prefixes or not same:
        raise UserError(
            found=f"resampling of a {c.activation} dictionary, {c.inputs} x {c.width} to "
            f"{c.outs} x {c.out_width}",
            expected="relu, outputs like the inputs, no skip path and no prefixes",
            do="use the auxiliary loss of topk and batch_topk instead",
        )
    losses = row_losses(dictionary, x, recipe, by)
    drawn, usable = draw_rows(losses, key, c.latents)
    dead = dictionary.array("silent_tokens") >= recipe.dead_after
    rank = jnp.cumsum(dead.astype(jnp.int32)) - 1  # the i-th dead latent takes the i-th draw
    given = dead & (rank < usable)
    rank = jnp.clip(rank, 0, drawn.shape[0] - 1)

    rows = dictionary.normalise(dictionary.rows(x))
    seen = dictionary.read(rows).reshape(rows.shape)[drawn[rank]]  # [F, M, D]
    norm = safe_norm(seen)[..., None]
    unit = seen / jnp.where(norm > 0, norm, 1.0)
    encoder = dictionary.array("encoder")
    parts = safe_norm(encoder.reshape(c.latents, c.inputs, c.width))  # [F, M]
    alive = (~dead).astype(jnp.float32)
    # With nothing alive there is no norm to go by, and rows get length `encoder_share`.
    some = jnp.sum(alive) > 0
    mean = jnp.where(some, alive @ parts / jnp.maximum(jnp.sum(alive), 1.0), 1.0)
    fresh = {
        "encoder": (encoder_share * mean[None, :, None] * unit).reshape(encoder.shape),
        "encoder_bias": jnp.zeros(c.latents),
        "decoder": unit.reshape(c.latents, -1),
    }
    params = _put(state.params, fresh, given)
    counts = jax.tree.map(lambda array: array, state.counts)
    silent = counts["silent_tokens"]
    counts["silent_tokens"] = silent.replace(jnp.where(given, 0, silent.get_value()))
    after = forget(state.optimiser, state.params, given, tuple(fresh), optimiser)
    state = TrainState(state.graph, params, counts, after, state.step)
    return state, jnp.sum(given, dtype=jnp.int32)


def draw_rows(losses: jax.Array, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Rows without replacement, each draw proportional to the squared loss among those left.

    Args:
        losses: float32 [B].
        key: typed key.
        count: at most so many.

    Returns:
        int32 [min(count, B)], in the order drawn; and int32 [], how many of them have a loss
        above 0 (the others must not be used).
    """
    # The order of log-weights with Gumbel noise is the order of such draws.
    positive = losses > 0
    weight = jnp.where(positive, 2 * jnp.log(jnp.where(positive, losses, 1.0)), -jnp.inf)
    noisy = weight + jax.random.gumbel(key, losses.shape, jnp.float32)
    most = min(count, losses.shape[0])
    drawn = jax.lax.top_k(noisy, most)[1]
    return drawn, jnp.minimum(jnp.sum(positive, dtype=jnp.int32), most)


def forget(
    optimiser_state: optax.OptState,
    params: nnx.State,
    latents: jax.Array,
    names: tuple[str, ...],
    optimiser: optax.GradientTransformation,
) -> optax.OptState:
    """Everything that an optimiser holds for parameters (Adam: both moments), 0 at some latents.

    Args:
        optimiser_state: of any optax transformation.
        params: what it was made for.
        latents: bool [F].
        names: parameters whose first axis is the latents.
        optimiser: that made the state.
    """
    mask = _put(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params),
        {name: jnp.ones(params[name].get_value().shape, bool) for name in names},
        latents,
    )
    clear = lambda held, here: jnp.where(here, jnp.zeros_like(held), held)
    return optax.tree_utils.tree_map_params(optimiser, clear, optimiser_state, mask)


def _put(state: nnx.State, fresh: dict[str, jax.Array], latents: jax.Array) -> nnx.State:
    """The state with rows of `fresh` at the chosen latents."""
    after = jax.tree.map(lambda array: array, state)
    for name, value in fresh.items():
        own = after[name]
        old = own.get_value()
        rows = latents.reshape(-1, *([1] * (old.ndim - 1)))
        after[name] = own.replace(jnp.where(rows, value.astype(old.dtype), old))
    return after
