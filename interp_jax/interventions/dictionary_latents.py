"""Edits of a few latents; everything else, the error of the dictionary included, stays.

`y + (what is to be - what is) * decoder row`, per latent. Where a latent's code depends on its
own pre-activation alone (all activations but `topk`), only the chosen rows of encoder and
decoder are read: for P latents a token costs 2 P (D_in + D_out) FLOPs, and the gathered rows
P (D_in + D_out) numbers a call, against 2 F (D_in + D_out) and F (D_in + D_out) for all of them.
So steering in decode costs next to nothing. Steering alone needs no encoder at all.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.dictionary_tap import (
    DictionaryEdit,
    SparseDictionary,
    at_layer,
    encoder_input,
    whole_code,
)
from interp_jax.interventions.edits import known_positions, operand, require_finite, static
from interp_jax.models.decoder import Decoder
from interp_jax.models.taps import Context, tap_class
from interp_jax.runtime.errors import UserError

SteeringUnits = Literal["code", "scaled", "unit"]


@tap_class
class LatentsEdit(DictionaryEdit):
    """What edits of chosen latents share.

    Attributes:
        latents: int [P] for all rows or [B, P] per row, each latent once; -1 stands for none.
            Or bool [F] or [B, F], a mask, for many: then everything is encoded, and P is F.
        value: per latent, [P], [B, P] per row, or [B, N, P] per row and own position (later
            ones are left alone).
        units: what `value` counts.
    """

    latents: jax.Array = None
    value: jax.Array = None
    units: str = static("code")

    def __post_init__(self):
        require_finite(
            self.name, value=self.value, strength=self.strength, layer_weights=self.layer_weights
        )

    @property
    def masked(self) -> bool:
        """Whether the latents are given as a mask over all of them."""
        return self.latents.dtype == np.bool_

    @property
    def costly(self) -> bool:
        return self.masked or (self.encodes and not self.dictionary.per_latent)

    def __call__(self, network: Decoder) -> Decoder:
        """Places the edit; see `DictionaryEdit` for what it raises."""
        require_latents(self.latents, self.dictionary, self.per_layer, self.name)
        count, shape = self.latents.shape[-1], jnp.shape(self.value)
        if shape[-1:] != (count,):
            raise UserError(
                found=f"values of shape {shape} for {count} latents in {self.name}",
                expected="a number for each latent, on the last axis",
                do="give [latents], [rows, latents] or [rows, positions, latents]",
            )
        return super().__call__(network)

    def narrow(self, mask, context):
        return mask & known_positions(self.value, self, context, 1)

    def chosen(self, context: Context) -> jax.Array:
        """The latents at the layer that is being visited."""
        return at_layer(self.latents, self.per_layer, context)

    def wanted(self, value, latents, scale, context: Context) -> jax.Array:
        """`self.value` in units of the code, [B or 1, T or 1, P]."""
        shape = (*value.shape[:2], latents.shape[-1])
        asked = operand(self.value, self, context, jax.ShapeDtypeStruct(shape, value.dtype))
        # Where s is 0 the row is 0 too, and any number will do.
        return asked if scale is None else asked / per_token(nonzero(scale)).astype(value.dtype)


@tap_class
class SteerLatents(LatentsEdit):
    """`y + strength * sum of value_j * decoder row j`. Nothing is encoded.

    Units of the value: `code`, times the row as it is; `scaled`, times row / s, so that the
    number is one of the scaled code; `unit`, times the row's direction, so that it is a length.
    """

    @property
    def encodes(self) -> bool:
        return False

    def edit(self, value, source, amount, context):
        dictionary, latents = self.here(context), self.chosen(context)
        rows = rows_at(dictionary, latents, self.out)
        scale = None
        if self.units == "scaled":
            scale = scale_at(dictionary, latents, self.out)
        elif self.units == "unit":
            square = jnp.sum(jnp.square(rows), axis=-1)
            scale = jnp.sqrt(nonzero(square))
        asked = self.wanted(value, latents, scale, context)
        return value + amount * weighted(asked, present(dictionary, latents), rows, value)


@tap_class
class ClampLatents(LatentsEdit):
    """`y + strength * sum of (value_j - f_j) * decoder row j`; value 0 ablates.

    The contribution is what is set. Encoding the result again need not give `value_j`: rows of
    other latents overlap, and a latent that was off had a pre-activation below its code of 0.
    """

    def edit(self, value, source, amount, context):
        dictionary, latents = self.here(context), self.chosen(context)
        scale = scale_at(dictionary, latents, self.out) if self.units == "scaled" else None
        asked = self.wanted(value, latents, scale, context)
        code = code_at(dictionary, encoder_input(dictionary, source), latents, self.out)
        rows = rows_at(dictionary, latents, self.out)
        change = asked - code.astype(value.dtype)
        return value + amount * weighted(change, present(dictionary, latents), rows, value)


def require_latents(
    latents: jax.Array, dictionary: SparseDictionary, per_layer: bool, owner: str
) -> None:
    """Raises UserError for latents of another shape or kind, out of range, or named twice."""
    count, kind = dictionary.config.latents, latents.dtype
    rank = latents.ndim - per_layer
    masked = kind == np.bool_
    if rank not in (1, 2) or not (masked or jnp.issubdtype(kind, jnp.integer)):
        raise UserError(
            found=f"latents of shape {latents.shape} and dtype {kind} for {owner}",
            expected="whole numbers [P] or [rows, P], or a mask [F] or [rows, F]",
            do="give one clause for all rows or one per row",
        )
    if masked and latents.shape[-1] != count:
        raise UserError(
            found=f"a mask over {latents.shape[-1]} latents for {owner}",
            expected=f"one over the dictionary's {count}", do="give a flag for each latent",
        )
    if masked or isinstance(latents, jax.core.Tracer):
        return
    known = np.asarray(latents)
    ordered = np.sort(known, axis=-1)
    twice = np.any((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0))
    if twice or np.any(known < -1) or np.any(known >= count):
        raise UserError(
            found=f"latents {known.reshape(-1)[:8].tolist()} for {owner}",
            expected=f"each once, from 0 to {count - 1} (or -1 for none)",
            do="correct the numbers",
        )


def present(dictionary: SparseDictionary, latents: jax.Array) -> jax.Array:
    """bool like `latents`: whether an entry names a latent (-1 and numbers beyond do not)."""
    if latents.dtype == np.bool_:
        return latents
    return (latents >= 0) & (latents < dictionary.config.latents)


def rows_at(dictionary: SparseDictionary, latents: jax.Array, output: int) -> jax.Array:
    """[P, D] or [B, P, D]: what a unit of each latent's code writes."""
    if latents.dtype == np.bool_:
        return dictionary.written_rows(output)
    own = lambda index: dictionary.narrowed(index).written_rows(output)
    return own(latents) if latents.ndim == 1 else jax.vmap(own)(latents)


def scale_at(dictionary: SparseDictionary, latents: jax.Array, output: int) -> jax.Array:
    """s as [P] or [B, P]; [F] for a mask."""

    def own(narrow: SparseDictionary) -> jax.Array:
        scale = narrow.scale()
        return scale[output] if scale.ndim == 2 else scale

    if latents.dtype == np.bool_:
        return own(dictionary)
    each = lambda index: own(dictionary.narrowed(index))
    return each(latents) if latents.ndim == 1 else jax.vmap(each)(latents)


def code_at(dictionary: SparseDictionary, x: jax.Array, latents: jax.Array, output: int):
    """The code [B, T, P] at the latents, of x [B, T, (M,) D]; [B, T, F] for a mask."""
    if latents.dtype == np.bool_:
        return whole_code(dictionary, x, output)
    if dictionary.per_latent:
        own = lambda index, x: whole_code(dictionary.narrowed(index), x, output)
        return own(latents, x) if latents.ndim == 1 else jax.vmap(own)(latents, x)
    code = whole_code(dictionary, x, output)
    index = jnp.clip(per_token(latents), 0, code.shape[-1] - 1)
    shape = (*code.shape[:2], latents.shape[-1])
    return jnp.take_along_axis(code, jnp.broadcast_to(index, shape), axis=-1)


def weighted(change, here: jax.Array, rows: jax.Array, value: jax.Array) -> jax.Array:
    """sum_j change_j * row_j over entries that name a latent: [B or 1, T or 1, D]."""
    change = jnp.where(per_token(here), change, jnp.zeros_like(change))
    spec = "btp,pd->btd" if rows.ndim == 2 else "btp,bpd->btd"
    if rows.ndim == 3:  # einsum wants all rows of the batch on both sides
        change = jnp.broadcast_to(change, (rows.shape[0], *change.shape[1:]))
    rows = rows.astype(value.dtype)
    return jnp.einsum(spec, change, rows, preferred_element_type=value.dtype)


def per_token(array: jax.Array) -> jax.Array:
    """[P] -> [1, 1, P]; [B, P] -> [B, 1, P]."""
    return array[None, None] if array.ndim == 1 else array[:, None]


def nonzero(scale: jax.Array) -> jax.Array:
    """The array, 1 in place of 0."""
    return jnp.where(scale == 0, jnp.ones_like(scale), scale)
