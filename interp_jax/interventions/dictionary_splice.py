"""Splicing a dictionary in: its reconstruction in place of an activation, with or without error.

An activation y is decode(f) + error, with f = encode(x) and x what the encoder reads (y itself,
or the input of what a transcoder replaces). Without the error term the network sees decode(f).
With it the network sees y, as it was, to the bit; what is new is that the latents are nodes:
`delta` is added to their code, so the gradient at `delta` = 0 is the gradient with respect to
the code of every latent, and `freeze_error` says what reaches earlier layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interp_jax.interventions.dictionary_tap import (
    DictionaryEdit,
    encoder_input,
    reconstruction,
)
from interp_jax.interventions.edits import known_positions, operand, require_finite, static
from interp_jax.models.decoder import Decoder
from interp_jax.models.taps import Context, tap_class
from interp_jax.runtime.errors import UserError


@tap_class
class Splice(DictionaryEdit):
    """The dictionary in place of the activation.

    Without error term: `(1 - strength) * y + strength * decode(f + delta)`, exactly the
    reconstruction at 1. With it: `y + strength * (what delta adds)`, exactly y at delta 0.

    Attributes:
        error: whether the error term is kept.
        freeze_error: the error counts as a constant in gradients, so that earlier layers are
            reached through the latents only (times the strength; the rest passes unchanged).
            Else the gradient is that of the network without a dictionary. Numbers are the same.
        delta: added to the code: [F], with a leading [B] per row, with [B, P] per row and own
            position; unscaled. None for nothing.
    """

    error: bool = static(True)
    freeze_error: bool = static(False)
    delta: jax.Array | None = None

    def __post_init__(self):
        require_finite(
            self.name, delta=self.delta, strength=self.strength, layer_weights=self.layer_weights
        )
        if self.freeze_error and not self.error:
            raise UserError(
                found=f"freeze_error without an error term in {self.name}",
                expected="freeze_error with error=True", do="leave one of them out",
            )

    @property
    def encodes(self) -> bool:
        return not self.error or self.freeze_error

    @property
    def costly(self) -> bool:
        return self.encodes or self.delta is not None

    def __call__(self, network: Decoder) -> Decoder:
        """Places the splice; see `DictionaryEdit` for what it raises."""
        latents = self.dictionary.config.latents
        if self.delta is not None and jnp.shape(self.delta)[-1:] != (latents,):
            raise UserError(
                found=f"a delta of shape {jnp.shape(self.delta)} for {self.name}",
                expected=f"one number for each of {latents} latents, on the last axis",
                do="use steer_latent for a few latents",
            )
        return super().__call__(network)

    def narrow(self, mask, context):
        if self.delta is None or not self.error:
            return mask
        return mask & known_positions(self.delta, self, context, 1)

    def edit(self, value, source, amount, context):
        dictionary = self.here(context)
        shift = self._shift(value, dictionary, context)
        if not self.error:
            told = encoder_input(dictionary, source)
            put = reconstruction(dictionary, told, self.out, shift).astype(value.dtype)
            return (jnp.ones_like(amount) - amount) * value + amount * put
        edited = value
        if self.freeze_error:
            told = encoder_input(dictionary, source)
            put = reconstruction(dictionary, told, self.out).astype(value.dtype)
            # Both differences are 0, so the value keeps its bits; only gradients pass them.
            still = jax.lax.stop_gradient(value)
            edited = still + (jnp.ones_like(amount) - amount) * (value - still)
            edited = edited + amount * (put - jax.lax.stop_gradient(put))
        if shift is not None:
            rows = dictionary.written_rows(self.out).astype(value.dtype)
            edited = edited + amount * jnp.einsum("btf,fd->btd", shift, rows)
        return edited

    def _shift(self, value, dictionary, context: Context) -> jax.Array | None:
        """`delta` as [B or 1, T or 1, F], or None."""
        if self.delta is None:
            return None
        shape = (*value.shape[:2], dictionary.config.latents)
        shift = operand(self.delta, self, context, jax.ShapeDtypeStruct(shape, value.dtype))
        known = known_positions(self.delta, self, context, 1)
        if jnp.ndim(known) == 2:  # beyond the last position it says nothing
            shift = shift * known.astype(value.dtype)[..., None]
        return shift
