"""The auxiliary loss: dead latents explain what the others leave over (crosscoder paper, 3.2).

Few latents are dead at a time, or none. So there are ways for none, some and many, of which one
is run. `auxiliary_loss` is a function like any other, with a gradient by autodiff: an array as
large as each parameter, mostly zeros. `add_auxiliary` is what a training step takes: it adds the
same gradient to one that is there, in place, and touches only the rows of dead latents.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from interp_jax.dictionaries.config import axis_letters
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.selection import top_of_rows


def auxiliary_loss(
    dictionary: Dictionary, rows: jax.Array, error: jax.Array, dead: jax.Array, recipe: Recipe
) -> jax.Array:
    """How well dead latents explain what is left over, float32 [].

    Per row the k_aux = min(width // 2, number of dead) largest scaled activations among dead
    latents; their reconstruction, without bias, against the residual, which carries no gradient.
    The squared error divided by the residual's variance over the batch; 0 where that is not a
    number, and 0 when nothing is dead.

    Args:
        dictionary: gives encoder, decoder and scale.
        rows: float32 [B, M, D], normalised.
        error: float32 [B, O, D].
        dead: bool [F].
        recipe: gives `auxiliary_k`.
    """
    number, most, rooms = _sizes(dictionary, dead, recipe)

    def some(room: int) -> jax.Array:
        part = dictionary.narrowed(_places(dead, room))
        return _explained(part, jnp.arange(room) < number, rows, error, most)

    ways = [lambda: jnp.zeros((), jnp.float32), *(partial(some, room) for room in rooms)]
    ways.append(lambda: _explained(dictionary, dead, rows, error, most))
    which = sum(((number > room).astype(jnp.int32) for room in rooms), jnp.minimum(number, 1))
    # Computed again in the backward pass: else every branch writes residuals of size [B, F].
    return jax.lax.switch(which, [jax.checkpoint(way) for way in ways])


def add_auxiliary(
    gradient: nnx.State, dictionary: Dictionary, rows: jax.Array, error: jax.Array,
    dead: jax.Array, recipe: Recipe,
) -> tuple[jax.Array, nnx.State]:
    """`auxiliary_loss`, and the gradient of `recipe.auxiliary` times it on top of another.

    Each way is a loop of one turn or none: what a loop carries stays where it is in memory,
    while a choice would write every parameter's gradient anew, also with nothing dead.

    Args:
        gradient: of `params` as in `training.split`.
        dictionary, rows, error, dead, recipe: as there.

    Returns:
        float32 [], and the sum.
    """
    number, most, rooms = _sizes(dictionary, dead, recipe)

    def way(size: int | None, turn: jax.Array, carry: tuple[jax.Array, nnx.State]):
        """With the dead gathered into `size` places; None: all latents, where they are."""
        # What does not depend on the turn would be computed before the loop, turn or none.
        now = turn < 1
        seen, those = jnp.where(now, rows, 0.0), dead & now
        places = None if size is None else _places(those, size)
        alive = those if size is None else jnp.arange(size) < number
        part = dictionary if places is None else dictionary.narrowed(places)
        graph, params, rest = nnx.split(part, nnx.Param, ...)

        def of(params: nnx.State):
            value = _explained(nnx.merge(graph, params, rest), alive, seen, error, most)
            return recipe.auxiliary * value, value

        (_, value), own = jax.value_and_grad(of, has_aux=True)(params)
        return value, _added(carry[1], own, places)

    carry = (jnp.zeros((), jnp.float32), gradient)
    below = 0  # numbers of dead latents that an earlier way is for
    for size in (*rooms, None):
        due = (number > below) & (number <= (size or dead.shape[0]))
        below = size
        carry = jax.lax.fori_loop(0, due.astype(jnp.int32), partial(way, size), carry)
    return carry


def _sizes(dictionary: Dictionary, dead: jax.Array, recipe: Recipe):
    """How many are dead, k_aux, and the numbers of dead latents that there are ways for."""
    latents = dictionary.config.latents
    most = min(recipe.auxiliary_k or max(dictionary.config.out_width // 2, 1), latents)
    rooms = tuple(room for room in (most, 4 * most) if room < latents)
    return jnp.sum(dead, dtype=jnp.int32), most, rooms


def _places(dead: jax.Array, room: int) -> jax.Array:
    """int32 [room]: the dead latents; F where there are fewer."""
    return jnp.nonzero(dead, size=room, fill_value=dead.shape[0])[0].astype(jnp.int32)


def _explained(
    part: Dictionary, those: jax.Array, rows: jax.Array, error: jax.Array, most: int
) -> jax.Array:
    """The loss by the latents of `part` where `those` [P] is true."""
    error = jax.lax.stop_gradient(error)
    code = jnp.where(those[None], part.activate(part.linear(part.read(rows))), 0.0)
    if part.config.latents > most:
        scale = part.scale()
        ranked = code * (scale.sum(0) if scale.ndim == 2 else scale)[None]
        count = jnp.minimum(jnp.sum(those, dtype=jnp.int32), most)
        code = jnp.where(top_of_rows(ranked, count), code, 0.0)
    out = part.product(code, part.array("decoder"), "bf,fd->bd")
    left = error - out.reshape(error.shape)
    spread = jnp.mean(_square(error - jnp.mean(error, axis=0, keepdims=True)))
    ratio = jnp.mean(_square(left)) / jnp.where(spread > 0, spread, 1.0)
    return jnp.where((spread > 0) & jnp.isfinite(ratio), ratio, 0.0)


def _added(gradient: nnx.State, own: nnx.State, places: jax.Array | None) -> nnx.State:
    """The sum of two gradients, of which the second has the latents of `places` only."""
    after = jax.tree.map(lambda array: array, gradient)
    for name in own:
        whole, part = gradient[name].get_value(), own[name].get_value()
        if places is None or not axis_letters(name).startswith("F"):
            total = whole + part
        else:
            total = whole.at[places].add(part, mode="drop")
        after[name] = gradient[name].replace(total)
    return after


def _square(error: jax.Array) -> jax.Array:
    """[B, O, D] -> [B], both axes flattened."""
    return jnp.sum(jnp.square(error), axis=(1, 2))
