"""The module: encode, scale, decode. One class for SAEs, transcoders and crosscoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from interp_jax.dictionaries.activations import jumprelu, safe_norm
from interp_jax.dictionaries.config import (
    DictionaryConfig,
    axis_letters,
    count_shapes,
    parameter_shapes,
    statistic_shapes,
)
from interp_jax.dictionaries.selection import top_of_batch, top_of_rows
from interp_jax.runtime.errors import UserError

Select = Literal["inference", "training"]


class Count(nnx.Variable):
    """What is counted, not trained: k, thresholds, tokens since a latent was last kept."""


class Statistic(nnx.Variable):
    """What the normaliser measured before training."""


class Dictionary(nnx.Module):
    """A sparse dictionary over stacked activations. A pytree; its config is static.

    Three activations are never mixed up (crosscoder paper, section 2): the *code* f, which the
    decoder takes; the *scaled code* f*s, which is ranked, thresholded, penalised and shown; and
    the pre-activation. x is [..., M, D], or [..., D] where `config.inputs` is 1; leading axes are
    rows, one batch for BatchTopK.
    """

    def __init__(self, config: DictionaryConfig, arrays: Mapping[str, jax.Array]):
        """Puts arrays into a dictionary; `build` makes fresh ones.

        Args:
            config: what is built.
            arrays: every name of `parameter_shapes`, `statistic_shapes` and, where it should
                not start anew, `count_shapes`.

        Raises:
            UserError: a name that is missing or unknown, or a shape that does not fit.
        """
        self.config = config
        trained, stored = parameter_shapes(config), statistic_shapes(config)
        counted = count_shapes(config)
        fresh = {
            "k": jnp.asarray(min(100, config.latents), jnp.int32),
            "threshold": jnp.full(counted["threshold"], -1.0, jnp.float32),
            "silent_tokens": jnp.zeros(counted["silent_tokens"], jnp.int32),
        }
        arrays = fresh | dict(arrays)
        shapes = trained | stored | counted
        if set(arrays) != set(shapes):
            raise UserError(
                found=f"arrays {', '.join(sorted(set(arrays) ^ set(shapes)))} not in both "
                "the config and what was given",
                expected=", ".join(shapes),
                do="give the arrays that the config asks for",
            )
        for name, shape in shapes.items():
            array = jnp.asarray(arrays[name])
            if array.shape != shape:
                raise UserError(
                    found=f"{name} of shape {array.shape}",
                    expected=f"{shape}",
                    do="transpose or cut the array, or change the config",
                )
            kind = nnx.Param if name in trained else Statistic if name in stored else Count
            setattr(self, name, kind(array))

    def array(self, name: str) -> jax.Array:
        """One of the arrays by name."""
        return getattr(self, name).get_value()

    def arrays(self) -> dict[str, jax.Array]:
        """Every array by name, as the constructor takes them."""
        shapes = (parameter_shapes, statistic_shapes, count_shapes)
        return {name: self.array(name) for of in shapes for name in of(self.config)}

    def product(self, a: jax.Array, b: jax.Array, spec: str) -> jax.Array:
        """einsum with factors in the config's dtype, summed in float32."""
        dtype = jnp.dtype(self.config.matmul_dtype)
        return jnp.einsum(
            spec, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32
        )

    def rows(self, x: jax.Array) -> jax.Array:
        """x [..., M, D] (or [..., D] at M = 1), as float32 [B, M, D].

        Raises:
            UserError: the last axes are not those of the config.
        """
        c = self.config
        want = (c.width,) if c.inputs == 1 else (c.inputs, c.width)
        return _rows(x, want).reshape(-1, c.inputs, c.width)

    def targets(self, y: jax.Array) -> jax.Array:
        """What is to be reconstructed, [..., O, D] (or [..., D] at O = 1), as float32 [B, O, D]."""
        c = self.config
        want = (c.out_width,) if c.outs == 1 else (c.outs, c.out_width)
        return _rows(y, want).reshape(-1, c.outs, c.out_width)

    def normalise(self, x: jax.Array) -> jax.Array:
        """[B, M, D] into the space the encoder works in."""
        return self._shifted(x, "in")

    def normalise_targets(self, y: jax.Array) -> jax.Array:
        """[B, O, D] into the space of the training loss."""
        return self._shifted(y, "out")

    def _shifted(self, x: jax.Array, side: str) -> jax.Array:
        if not self.config.normaliser:
            return x
        return (x - self.array(f"shift_{side}")[None]) * self.array(f"scale_{side}")[None]

    def restore(self, y: jax.Array) -> jax.Array:
        """The inverse of `normalise_targets`."""
        if not self.config.normaliser:
            return y
        return y / self.array("scale_out")[None] + self.array("shift_out")[None]

    def read(self, x: jax.Array) -> jax.Array:
        """What the encoder's matrix meets: normalised rows [B, M, D] -> [B, E*D]."""
        index = self.config.read_inputs
        seen = x if self.config.encoder_inputs is None else x[:, jnp.asarray(index)]
        if self.config.centred:
            bias = self.array("decoder_bias")
            # One output for all inputs, or one for each.
            seen = seen - jnp.stack([bias[min(i, self.config.outs - 1)] for i in index])[None]
        return seen.reshape(seen.shape[0], -1)

    def linear(self, seen: jax.Array) -> jax.Array:
        """[B, E*D] -> [B, F], the encoder without bias."""
        return self.product(seen, self.array("encoder"), "be,fe->bf")

    def scale(self) -> jax.Array:
        """s [F], or [O, F] when decoupled: what makes the scaled code of the code."""
        c = self.config
        if c.code_norm == "none":
            return jnp.ones(c.latents, jnp.float32)
        if c.code_norm == "sae":
            return safe_norm(self.array("decoder"))
        norms = self.decoder_norms()
        if c.code_norm == "decoupled":
            return norms if c.decoupled else norms.sum(0)
        if c.code_norm == "crosscoder":
            return norms.sum(0)
        whole = safe_norm(self.array("decoder"))
        return c.mixed_sae * whole + c.mixed_crosscoder * norms.sum(0)

    def decoder_rows(self) -> jax.Array:
        """float32 [F, O, D], the decoder seen per output."""
        c = self.config
        return self.array("decoder").reshape(c.latents, c.outs, c.out_width)

    def decoder_norms(self) -> jax.Array:
        """float32 [O, F], the L2 norm of each latent's decoder row for each output."""
        return safe_norm(self.decoder_rows()).T

    def activate(self, linear: jax.Array, bandwidth: float = 1e-3) -> jax.Array:
        """[B, F], `linear` without bias -> the code before any selection."""
        pre = linear + self.array("encoder_bias")[None]
        kind = self.config.activation
        if kind == "jumprelu":
            return jumprelu(pre, self.array("jump_threshold"), bandwidth)
        if kind == "gated":
            magnitude = self.magnitudes(linear)
            return jnp.where(pre > 0, jax.nn.relu(magnitude), 0.0)
        code = jax.nn.relu(pre)
        return code * self.array("gain")[None] if self.config.gain else code

    def activate_at(self, linear: jax.Array, latents: jax.Array) -> jax.Array:
        """`activate` of a dictionary with a plain relu, for single entries: linear [N] of `latents`
        [N] -> [N]."""
        code = jax.nn.relu(linear + jnp.take(self.array("encoder_bias"), latents))
        return code * jnp.take(self.array("gain"), latents) if self.config.gain else code

    def magnitudes(self, linear: jax.Array) -> jax.Array:
        """Pre-activation of a gated dictionary's magnitude path [B, F]."""
        factor = self.array("magnitude")
        factor = jnp.exp(factor) if self.config.magnitude == "exp" else jax.nn.softplus(factor)
        if self.config.gain:
            factor = factor * self.array("gain")
        return linear * factor[None] + self.array("magnitude_bias")[None]

    def keep(
        self, code: jax.Array, select: Select, k: jax.Array, most_k: int | None = None
    ) -> jax.Array:
        """Which entries of a [B, F] code stay: bool, [B, F], or [B, O, F] when decoupled.

        `most_k`, the largest k there will be, quickens the search of `batch_topk` in training.
        """
        scaled = self.scaled(code)
        if self.config.activation == "topk":
            return top_of_rows(scaled, k)
        if self.config.activation != "batch_topk":
            return code > 0
        if select == "inference":
            threshold = self.array("threshold")
            return scaled > (threshold[None, :, None] if self.config.decoupled else threshold)
        count = k * code.shape[0]
        room = None if most_k is None else most_k * code.shape[0]
        if not self.config.decoupled:
            return top_of_batch(scaled, count, room)
        outs = range(self.config.outs)
        return jnp.stack([top_of_batch(scaled[:, o], count, room) for o in outs], axis=1)

    def scaled(self, code: jax.Array) -> jax.Array:
        """f*s, [B, F] (or [B, O, F] when decoupled) of a code [B, F] or [B, O, F]."""
        if not self.config.decoupled:
            return code * self.scale()[None]
        return (code[:, None] if code.ndim == 2 else code) * self.scale()[None]

    def encode(
        self, x: jax.Array, select: Select = "inference", k: jax.Array | int | None = None
    ) -> jax.Array:
        """The code.

        Args:
            x: [..., M, D], or [..., D] at M = 1.
            select: for BatchTopK, `inference` keeps what lies strictly above the threshold, row
                by row; `training` keeps the k*B largest of the batch. Others have one rule.
            k: in place of the stored one (int32 [], may be traced).

        Returns:
            float32 [..., F], unscaled; [..., O, F] when decoupled.
        """
        rows = self.rows(x)
        code = self.activate(self.linear(self.read(self.normalise(rows))))
        k = self.array("k") if k is None else jnp.asarray(k, jnp.int32)
        mask = self.keep(code, select, k)
        code = jnp.where(mask, code[:, None] if self.config.decoupled else code, 0.0)
        axes = 1 if self.config.inputs == 1 else 2
        return code.reshape(*x.shape[:-axes], *code.shape[1:])

    def activations(
        self, x: jax.Array, select: Select = "inference", k: jax.Array | int | None = None
    ) -> jax.Array:
        """The scaled code [..., F], what dashboards and statistics show.

        When decoupled, the sum over outputs.
        """
        code = self.encode(x, select, k)
        if not self.config.decoupled:
            return code * jnp.broadcast_to(self.scale(), code.shape)
        return jnp.sum(code * jnp.broadcast_to(self.scale(), code.shape), axis=-2)

    def decode_rows(self, code: jax.Array) -> jax.Array:
        """[B, F] or [B, O, F] -> [B, O, D] in normalised space, without bias."""
        c = self.config
        if code.ndim == 3:
            return self.product(code, self.decoder_rows(), "bof,fod->bod")
        # One product for all outputs; a latent's rows for them lie side by side.
        out = self.product(code, self.array("decoder"), "bf,fd->bd")
        return out.reshape(-1, c.outs, c.out_width)

    def decode(self, code: jax.Array, x: jax.Array | None = None) -> jax.Array:
        """The reconstruction of a code.

        Args:
            code: [..., F], unscaled; [..., O, F] when decoupled.
            x: the input, for a dictionary with a skip path; its part is left out without.

        Returns:
            float32 [..., O, D], or [..., D] at O = 1.
        """
        c = self.config
        inner = code.shape[-2:] if c.decoupled else code.shape[-1:]
        lead = code.shape[: code.ndim - len(inner)]
        out = self.decode_rows(code.reshape(-1, *inner)) + self.array("decoder_bias")[None]
        if c.skip and x is not None:
            out = out + self.skipped(self.normalise(self.rows(x)))
        shape = (c.out_width,) if c.outs == 1 else (c.outs, c.out_width)
        return self.restore(out).reshape(*lead, *shape)

    def skipped(self, rows: jax.Array) -> jax.Array:
        """The skip path: normalised rows [B, M, D] -> [B, O, D]."""
        c = self.config
        out = self.product(rows.reshape(rows.shape[0], -1), self.array("skip"), "be,ed->bd")
        return out.reshape(-1, c.outs, c.out_width)

    @property
    def per_latent(self) -> bool:
        """Whether, at inference, the code of a latent depends on its own pre-activation alone."""
        return self.config.activation != "topk"

    def narrowed(self, latents: jax.Array) -> Dictionary:
        """The dictionary of P of the latents: their rows, and what all latents share.

        Where the code is `per_latent`, the narrowed one encodes to the same values at those
        latents, for P / F of the work. Its reconstruction is of them alone, with the biases.

        Args:
            latents: int32 [P], may be traced; a number outside 0..F-1 is taken as the nearest.
        """
        arrays = {
            name: jnp.take(array, latents, axis=0, mode="clip")
            if axis_letters(name).startswith("F") else array
            for name, array in self.arrays().items()
        }  # fmt: skip
        config = dataclasses.replace(self.config, latents=latents.shape[0], prefixes=())
        return Dictionary(config, arrays)

    def written_rows(self, output: int = 0) -> jax.Array:
        """float32 [F, D]: what one unit of each latent's code adds to an output, as it is used.

        The decoder's rows, brought back from the normalised space.
        """
        rows = self.decoder_rows()[:, output].astype(jnp.float32)
        return rows / self.array("scale_out")[output][None] if self.config.normaliser else rows

    def __call__(self, x: jax.Array, select: Select = "inference") -> jax.Array:
        """The reconstruction of x, [..., O, D] or [..., D] at O = 1."""
        return self.decode(self.encode(x, select), x)


def _rows(x: jax.Array, want: tuple[int, ...]) -> jax.Array:
    if x.shape[-len(want) :] != want:
        raise UserError(
            found=f"activations of shape {x.shape}",
            expected=f"the last axes to be {want}",
            do="stack the activations in the order of the dictionary's inputs, width last",
        )
    return x.astype(jnp.float32)
