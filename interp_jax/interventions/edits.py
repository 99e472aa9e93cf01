"""Edits of activations: add, replace, project out, set a component, scale.

Each is a frozen pytree and a function `network -> network`. Site and kind are
structure; strength, vectors, positions and layer weights are array leaves, so
sweeps over them compile once. Strength 0 leaves the base model's bits and 1
gives the full edit exactly; both hold because the mask and the strength enter
as one factor, without a branch.

Operands (`vector`, `value`) have the site's own trailing shape, such as [D]:
with no further axis they hold for every row, with a leading [B] per row, with
[B, P] per row and position (own positions from 0; later ones are left alone).
With `per_layer` a further leading axis runs over the site's layers. At sites
with heads, [head_dim] is shared by the heads.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.placing import place
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.models.taps import Context, Record, Tap, tap_class, touched
from interp_jax.runtime.errors import UserError


def static(default=dataclasses.MISSING):
    """A dataclass field that is part of the structure, not a leaf."""
    return dataclasses.field(default=default, metadata={"pytree_node": False})


def require_finite(owner: str, **operands) -> None:
    """Raises UserError when a concrete operand holds a NaN or an infinity."""
    for name, value in operands.items():
        if value is None or isinstance(value, jax.core.Tracer):
            continue
        if not np.all(np.isfinite(np.asarray(value, np.float64))):
            raise UserError(
                found=f"a non-finite number in `{name}` of {owner}",
                expected="finite operands", do="check how it was computed",
            )


@tap_class
class Edit(Tap):
    """What all edits share.

    Attributes:
        where: which tokens.
        strength: [] or [B]; 0 leaves the base, 1 is the full edit.
        layer_weights: [number of layers of the site] or None; see `place`.
        per_layer: whether operands lead with an axis over the site's layers.
    """

    where: Where = EVERYWHERE
    strength: jax.Array | float = 1.0
    layer_weights: jax.Array | None = None
    per_layer: bool = static(False)

    def __call__(self, network: Decoder) -> Decoder:
        """Places the edit; see `place` for what it raises."""
        return place(network, self, self.layer_weights)

    def visit(self, value: jax.Array, context: Context, record: Record) -> jax.Array:
        """Edits the value where the clause says, and counts those tokens there."""
        mask = self.where(context.batch)
        mask = self.narrow(mask, context)
        touched(self.name, mask, context.gate, record)
        amount = row_factor(self.strength, context.gate, value.dtype) * mask.astype(value.dtype)
        return self.edit(value, spread_heads(amount, self.site, value), context)

    def narrow(self, mask: jax.Array, context: Context) -> jax.Array:
        """Leaves out tokens that an operand says nothing about."""
        return mask

    def edit(self, value: jax.Array, amount: jax.Array, context: Context) -> jax.Array:
        """The edit itself; `amount` broadcasts against `value`."""
        raise NotImplementedError


def row_factor(strength, gate, dtype) -> jax.Array:
    """[B or 1, 1]: strength times the layer's gate."""
    strength = jnp.asarray(strength).astype(dtype)
    column = strength[:, None] if strength.ndim == 1 else strength[None, None]
    return column * jnp.asarray(gate).astype(dtype)[None, None]


def spread_heads(amount: jax.Array, site: Site, value: jax.Array) -> jax.Array:
    """[B, T] -> the axes of `value`, zero at heads that the site leaves out."""
    axes = site.axes
    if axes == "BHTS":
        amount = amount[:, None, :, None]
        head_axis = 1
    else:
        amount = jnp.expand_dims(amount, tuple(range(2, value.ndim)))
        head_axis = 2
    if site.heads is not None:
        count = value.shape[head_axis]
        chosen = np.isin(np.arange(count), site.heads)
        shape = [1] * value.ndim
        shape[head_axis] = count
        amount = amount * jnp.asarray(chosen.reshape(shape), value.dtype)
    return amount


def operand(array, edit: Edit, context: Context, value: jax.Array) -> jax.Array:
    """An operand as an array that broadcasts against `value` [B, T, ...]."""
    array = jnp.asarray(array).astype(value.dtype)
    if edit.per_layer:
        array = array[context.slot]
    tail = value.ndim - 2
    if tail == 2 and array.ndim in (1,):
        array = jnp.broadcast_to(array[None, :], value.shape[2:])
    extra = array.ndim - tail
    if extra == 0:
        return array[None, None]
    if extra == 1:
        return array[:, None]
    if extra == 2:
        last = jnp.minimum(context.batch.positions, jnp.int32(array.shape[1] - 1))
        index = jnp.expand_dims(last, tuple(range(2, value.ndim)))
        if array.shape[0] == 1 and value.shape[0] > 1:
            array = jnp.broadcast_to(array, (value.shape[0], *array.shape[1:]))
        return jnp.take_along_axis(array, index, axis=1)
    raise UserError(
        found=f"an operand of shape {array.shape} for {edit.name}",
        expected=f"at most two axes before the site's own {value.shape[2:]}",
        do="see interp_jax.interventions.edits for the shapes",
    )


def known_positions(array, edit: Edit, context: Context, tail: int) -> jax.Array | bool:
    """bool [B, T]: whether a per-position operand reaches that far; else True."""
    shape = np.shape(array)[1:] if edit.per_layer else np.shape(array)
    if len(shape) - tail != 2:
        return np.True_
    return context.batch.positions < jnp.int32(shape[1])


@tap_class
class _VectorEdit(Edit):
    """An edit with one operand of the site's trailing shape."""

    vector: jax.Array = None

    def __post_init__(self):
        require_finite(
            self.name, vector=self.vector, strength=self.strength, layer_weights=self.layer_weights
        )

    def narrow(self, mask, context):
        return mask & known_positions(self.vector, self, context, len(self.site.axes) - 2)

    def operand(self, context: Context, value: jax.Array) -> jax.Array:
        return operand(self.vector, self, context, value)


@tap_class
class Add(_VectorEdit):
    """Steering: `x + strength * vector`."""

    def edit(self, value, amount, context):
        return value + amount * self.operand(context, value)


@tap_class
class Replace(_VectorEdit):
    """Patching: `(1 - strength) * x + strength * vector`; exactly the vector at 1."""

    def edit(self, value, amount, context):
        keep = jnp.ones_like(amount) - amount
        return keep * value + amount * self.operand(context, value)


@tap_class
class ProjectOut(_VectorEdit):
    """Ablates a direction: `x - strength * (x . u) u`, u the unit vector."""

    def edit(self, value, amount, context):
        unit = _unit(self.operand(context, value))
        along = jnp.sum(value * unit, axis=-1, keepdims=True)
        return value - amount * along * unit


@tap_class
class SetComponent(_VectorEdit):
    """Moves the component along the unit vector u to `target`.

    `x + strength * (target - x . u) u`.

    Attributes:
        target: [] or [B], in units of the activation.
    """

    target: jax.Array | float = 0.0

    def __post_init__(self):
        require_finite(
            self.name, vector=self.vector, strength=self.strength, target=self.target,
            layer_weights=self.layer_weights,
        )

    def edit(self, value, amount, context):
        unit = _unit(self.operand(context, value))
        along = jnp.sum(value * unit, axis=-1, keepdims=True)
        target = jnp.asarray(self.target).astype(value.dtype)
        target = jnp.expand_dims(target, tuple(range(target.ndim, value.ndim)))
        return value + amount * (target - along) * unit


@tap_class
class Scale(Edit):
    """`x * ((1 - strength) + strength * factor)`; factor 0 zeroes.

    At `attn_scores` and `attn_weights` the queries are those of `where` and the
    keys those of `keys`; weights are not renormalised.

    Attributes:
        factor: [] or [B].
        keys: which keys, at those two sites; None for all.
    """

    factor: jax.Array | float = 0.0
    keys: Where | None = None

    def __post_init__(self):
        require_finite(
            self.name, factor=self.factor, strength=self.strength, layer_weights=self.layer_weights
        )

    def edit(self, value, amount, context):
        if self.keys is not None and context.keys is not None:
            amount = amount * self.keys(context.keys)[:, None, None, :].astype(value.dtype)
        factor = jnp.asarray(self.factor).astype(value.dtype)
        factor = jnp.expand_dims(factor, tuple(range(factor.ndim, value.ndim)))
        return value * ((jnp.ones_like(amount) - amount) + amount * factor)


def _unit(vector: jax.Array) -> jax.Array:
    """The unit vector; zero for a zero vector, which has no direction."""
    square = jnp.sum(vector * vector, axis=-1, keepdims=True)
    return vector / jnp.sqrt(jnp.where(square == 0, jnp.ones_like(square), square))
