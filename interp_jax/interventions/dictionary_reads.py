"""Reading codes: which latents are active where, reduced inside the compiled step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.interventions.dictionary_latents import (
    code_at,
    per_token,
    present,
    require_latents,
    scale_at,
)
from interp_jax.interventions.dictionary_tap import (
    DictionaryTap,
    at_layer,
    encoder_input,
    flat,
    whole_code,
)
from interp_jax.interventions.edits import static
from interp_jax.interventions.placing import place
from interp_jax.interventions.reads import Last, Mean, Reduction
from interp_jax.models.decoder import Decoder
from interp_jax.models.taps import Context, Record, tap_class, touched
from interp_jax.runtime.errors import UserError


@struct.pytree_dataclass
class Max(Reduction):
    """[B, F]: the largest value over the tokens asked for; zero where there are none."""

    def __call__(self, value, mask, context):
        low = jnp.asarray(-jnp.inf, value.dtype)
        top = jnp.max(jnp.where(mask[..., None], value, low), axis=1)
        return jnp.where(jnp.any(mask, axis=1)[:, None], top, jnp.zeros_like(top))


@struct.pytree_dataclass
class TopLatents(Reduction):
    """[B, 2, k]: the k largest entries of a row's reduced code, and which latents they are.

    Values stand in `[:, 0]`, numbers of latents (exact below 2^24) in `[:, 1]`.

    Attributes:
        k: how many.
        of: `Mean()`, `Max()` or `Last()`: from a row's tokens to one code.
    """

    k: int = static()
    of: Reduction = Mean()

    def __call__(self, value, mask, context):
        if not isinstance(self.of, (Mean, Max, Last)):
            raise UserError(
                found=f"the largest latents of {type(self.of).__name__}",
                expected="Mean(), Max() or Last()", do="choose one, or TopK for each token",
            )
        top, index = jax.lax.top_k(self.of(value, mask, context), self.k)
        return jnp.stack([top, index.astype(top.dtype)], axis=1)


@tap_class
class ReadLatents(DictionaryTap):
    """Puts the code of a site on the tape, reduced.

    Attributes:
        reduce: what is kept of [B, T, F], or of [B, T, P] with `latents`.
        latents: int [P] or [B, P]: only these are encoded (all are for `topk`); -1 gives 0.
        units: `code`, or `scaled` by s.
    """

    reduce: Reduction = None
    latents: jax.Array | None = None
    units: str = static("code")

    @property
    def costly(self) -> bool:
        return self.latents is None or not self.dictionary.per_latent

    def __call__(self, network: Decoder) -> Decoder:
        """Places the read.

        Raises:
            UserError: a site that the network or the dictionary does not have; see `place`.
        """
        self.require_encodable(network, self.site)
        config = self.dictionary.config
        if config.decoupled and not (self.output is not None and 0 <= self.output < config.outs):
            raise UserError(
                found=f"output {self.output} of a dictionary with a code for each output",
                expected=f"one of 0 to {config.outs - 1}", do="say which with output=",
            )
        if self.latents is not None:
            require_latents(self.latents, self.dictionary, self.per_layer, self.name)
        return place(network, self)

    def visit(self, value: jax.Array, context: Context, record: Record) -> jax.Array:
        """Reads; the value goes on unchanged."""
        mask = self.where(context.batch)
        touched(self.name, mask, context.gate, record)
        dictionary = self.here(context)
        x = encoder_input(dictionary, flat(value))
        scaled = self.units == "scaled"
        if self.latents is None:
            code = whole_code(dictionary, x, self.out)
            if scaled:
                scale = dictionary.scale()
                scale = scale[self.out] if scale.ndim == 2 else scale
                code = code * per_token(scale).astype(code.dtype)
        else:
            latents = at_layer(self.latents, self.per_layer, context)
            code = code_at(dictionary, x, latents, self.out)
            if scaled:
                code = code * per_token(scale_at(dictionary, latents, self.out)).astype(code.dtype)
            code = jnp.where(per_token(present(dictionary, latents)), code, jnp.zeros_like(code))
        seen = self.reduce(code, mask, context)
        record.read(self.name, context.slot if self.site.layered else None, seen)
        return value
