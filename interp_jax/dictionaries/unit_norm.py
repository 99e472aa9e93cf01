"""Unit-norm decoder rows, held by projection, as the trainers of `dictionary_learning` do.

With rows free, an L1 cost on the code is lowered by making rows longer and codes smaller. Those
trainers hold every row at length 1: the part of the gradient along the row is taken out before
the optimiser sees it (else Adam's moments fill with what the projection undoes), and after the
update the row is scaled back (Bricken et al. 2023, "Towards Monosemanticity", appendix on
training). The other cure is a cost scaled by the norm (`code_norm`), and needs none of this.

A row is that of all outputs side by side: in a crosscoder its parts may differ in length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from interp_jax.dictionaries.activations import safe_norm
from interp_jax.dictionaries.dictionary import Dictionary


def without_parallel(gradient: jax.Array, decoder: jax.Array) -> jax.Array:
    """The gradient [F, O*D] less its component along each decoder row.

    A row of length 0 has no direction: its gradient is left as it is.
    """
    unit = unit_rows(decoder)
    along = jnp.sum(gradient * unit, axis=-1, keepdims=True)
    return gradient - along * unit


def unit_rows(decoder: jax.Array) -> jax.Array:
    """Each row [D] of [F, O*D] at length 1; a row of length 0 stays 0."""
    norm = safe_norm(decoder)[:, None]
    return decoder / jnp.where(norm > 0, norm, jnp.ones_like(norm))


def project_gradient(gradient: nnx.State, params: nnx.State) -> nnx.State:
    """`without_parallel` at the decoder of a gradient as `train_step` has it."""
    own, decoder = gradient["decoder"], params["decoder"].get_value()
    return _with(gradient, own.replace(without_parallel(own.get_value(), decoder)))


def project_params(params: nnx.State) -> nnx.State:
    """`unit_rows` at the decoder of what is trained."""
    own = params["decoder"]
    return _with(params, own.replace(unit_rows(own.get_value())))


def with_unit_rows(dictionary: Dictionary) -> Dictionary:
    """The dictionary with unit-norm decoder rows, to start training from.

    Nothing makes up for it elsewhere: a trained dictionary would not keep its reconstruction.
    """
    arrays = dictionary.arrays()
    return Dictionary(dictionary.config, arrays | {"decoder": unit_rows(arrays["decoder"])})


def _with(state: nnx.State, decoder: nnx.Variable) -> nnx.State:
    # A copy, so that the caller's state stays as it was.
    after = jax.tree.map(lambda array: array, state)
    after["decoder"] = decoder
    return after
