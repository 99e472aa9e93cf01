"""What the contract test is made of: two tiny networks, ragged rows, and one case per verb.

A case says how its intervention is built from a dictionary of values, so that the same values
can be leaves of a network that is passed to `jit`, traced by `vmap`, or differentiated.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions import lora as adapters
from interp_jax.interventions import reads, verbs
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.config import LayerKind, ModelConfig, Rope, parameter_shapes
from interp_jax.models.decoder import Decoder, build_decoder
from interp_jax.models.sites import Site

LLAMA = ModelConfig(
    family="llama", vocab_size=31, width=16, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=4,
    mlp_width=24, pattern=(LayerKind(None, Rope(10000.0)),), query_scale=0.5,
)
# Two full patterns of six and one layer more: windows, both rotations, every norm and cap.
GEMMA3 = ModelConfig(
    family="gemma3", vocab_size=29, width=16, n_layers=13, n_heads=2, n_kv_heads=1, head_dim=8,
    mlp_width=20,
    pattern=(LayerKind(3, Rope(10000.0)),) * 5 + (LayerKind(None, Rope(1e6, linear_factor=8.0)),),
    query_scale=8**-0.5, norm_eps=1e-6, norm_offset=1.0, embed_scale=4.0,
    activation="gelu_tanh", attn_softcap=5.0, logit_softcap=10.0, qk_norm=True, post_norms=True,
    tied_head=True,
)
CONFIGS = {"llama": LLAMA, "gemma3": GEMMA3}
LENGTHS = (10, 7, 9, 4)
PROMPT = (5, 4, 3, 2)  # of each row, in the test of cached generation
WIDTH = 10


@functools.cache
def parameters(config: ModelConfig, dtype: str = "float32") -> dict[str, jax.Array]:
    """Random weights; gains away from their neutral value, so that a lost one would show."""
    rng = np.random.default_rng(7)
    params = {}
    for name, shape in parameter_shapes(config).items():
        scale = 0.2 if name.endswith(".gain") else 1.0 if "table" in name else shape[0] ** -0.5
        centre = 1.0 - config.norm_offset if name.endswith(".gain") else 0.0
        # Rounded to bfloat16 in every dtype, so that the networks of a config are one network.
        value = jnp.asarray(centre + scale * rng.standard_normal(shape), jnp.bfloat16)
        params[name] = value.astype("float32" if name.endswith(".gain") else dtype)
    if dtype == "float64":
        params = {name: value.astype(dtype) for name, value in params.items()}
    return params


@functools.cache
def network(name: str, layout: str = "unrolled", dtype: str = "float32") -> Decoder:
    """One of the two networks."""
    config = CONFIGS[name]
    return build_decoder(config, parameters(config, dtype), layout)


def token_rows(config: ModelConfig) -> list[np.ndarray]:
    """The rows' own tokens, int32 [length]."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, config.vocab_size, length).astype(np.int32) for length in LENGTHS]


def padded(rows, *, width: int = WIDTH, left: bool = False, fill: int = 0, lengths=None) -> Batch:
    """Rows as a batch, padded with `fill` on one side.

    `packed=False` always, so that both sides of padding are one program.
    """
    tokens = np.full((len(rows), width), fill, np.int32)
    valid = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, at], valid[i, at] = row, True
    return Batch.make(tokens, valid, packed=False, lengths=lengths)


@jax.jit
def forward(net: Decoder, batch: Batch):
    """One program for one structure; every number is an argument."""
    return net(batch)


@dataclasses.dataclass(frozen=True)
class Case:
    """An intervention under test.

    Attributes:
        values: config -> its values, numpy arrays and floats in float32.
        build: (config, values) -> the intervention.
        zero: which values become zero at strength zero.
        asked: (row length, config) -> the row's touched positions, or None where the count is
            not one per token.
        layers: config -> how many layers it touches.
        linear: no value to differentiate (a read).
    """

    values: Callable[[ModelConfig], dict[str, Any]]
    build: Callable[[ModelConfig, dict[str, Any]], Any]
    zero: tuple[str, ...] = ("strength",)
    path: str = "auto"


def _rng(*tag) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(tag).encode()))


def vector(*shape, tag: int = 0) -> np.ndarray:
    """A fixed random float32 array."""
    return _rng(shape, tag).standard_normal(shape).astype(np.float32)
