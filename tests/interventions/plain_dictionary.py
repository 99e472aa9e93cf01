"""A dictionary that is nothing but the protocol, in the dtype that it is given.

The package's own computes in float32 always; finite differences want float64. It also shows
that interventions need no more of a dictionary than they say.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from penzai.core import struct

from tests.interventions.contract import noise


@dataclasses.dataclass(frozen=True)
class PlainConfig:
    """What the interventions look at."""

    width: int
    latents: int
    out_width: int
    inputs: int = 1
    outs: int = 1
    read_inputs: tuple[int, ...] = (0,)
    skip: bool = False
    decoupled: bool = False


@struct.pytree_dataclass
class PlainDictionary(struct.Struct):
    """relu(x W^T + b), f V + c."""

    encoder: jax.Array
    bias: jax.Array
    decoder: jax.Array
    decoder_bias: jax.Array
    config: PlainConfig = dataclasses.field(metadata={"pytree_node": False})
    per_latent = True

    def encode(self, x):
        pre = jnp.einsum("...d,fd->...f", x, self.encoder.astype(x.dtype))
        bias = self.bias.astype(x.dtype)
        return jax.nn.relu(pre + jnp.expand_dims(bias, tuple(range(pre.ndim - 1))))

    def decode(self, code, x):
        out = jnp.einsum("...f,fd->...d", code, self.decoder.astype(code.dtype))
        bias = self.decoder_bias.astype(out.dtype)
        return out + jnp.expand_dims(bias, tuple(range(out.ndim - 1)))

    def narrowed(self, latents):
        take = lambda a: jnp.take(a, latents, axis=0, mode="clip")
        config = dataclasses.replace(self.config, latents=latents.shape[0])
        return PlainDictionary(
            take(self.encoder), take(self.bias), take(self.decoder), self.decoder_bias, config
        )

    def scale(self):
        return jnp.sqrt(jnp.sum(jnp.square(self.decoder), axis=-1))

    def written_rows(self, output):
        return self.decoder


def plain_dictionary(width: int, latents: int, out_width: int | None = None, tag: str = ""):
    """With random arrays, always the same for the same arguments."""
    out = out_width or width
    return PlainDictionary(
        noise(latents, width, tag=f"enc{tag}") / jnp.sqrt(jnp.float32(width)),
        0.3 * noise(latents, tag=f"bias{tag}"),
        noise(latents, out, tag=f"dec{tag}") / 2,
        0.1 * noise(out, tag=f"out{tag}"),
        PlainConfig(width, latents, out),
    )
