"""What the contract test stands on: two tiny networks, ragged rows, and ways to run them.

Every batch is made with `packed=False` and every value is an array, so that the cases of one
structure are one program.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.models.batch import Batch
from interp_jax.models.config import LayerKind, ModelConfig, Rope, parameter_shapes
from interp_jax.models.decoder import Decoder, build_decoder
from tests.compiling import PLAIN

LLAMA = ModelConfig(
    family="llama", vocab_size=31, width=16, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=4,
    mlp_width=24, pattern=(LayerKind(None, Rope(10000.0)),), query_scale=0.5,
)  # fmt: skip
_LOCAL, _GLOBAL = LayerKind(3, Rope(10000.0)), LayerKind(None, Rope(1e6, linear_factor=8.0))
# Every switch of Gemma 2 and 3: windows, two rotations, all norms, both caps; a pattern of two,
# twice, and one layer more.
GEMMA = ModelConfig(
    family="gemma3", vocab_size=29, width=16, n_layers=5, n_heads=2, n_kv_heads=1, head_dim=8,
    mlp_width=20, norm_eps=1e-6, norm_offset=1.0, embed_scale=4.0, activation="gelu_tanh",
    pattern=(_LOCAL, _GLOBAL), query_scale=8**-0.5, attn_softcap=5.0, logit_softcap=10.0,
    qk_norm=True, post_norms=True, tied_head=True,
)  # fmt: skip
# Gemma 3's own pattern, five local and one global layer, twice and one layer more.
GEMMA3 = dataclasses.replace(GEMMA, n_layers=13, pattern=(_LOCAL,) * 5 + (_GLOBAL,))
CONFIGS = {"llama": LLAMA, "gemma": GEMMA, "gemma3": GEMMA3}
LENGTHS = (10, 7, 9, 4)
PROMPTS = (5, 4, 3, 2)  # of each row, in the test of cached generation
WIDTH = 10
ROWS = len(LENGTHS)
# The optimiser's passes cost half of the compilation and change no promise of equal numbers.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def parameters(config: ModelConfig, dtype: str = "float32") -> dict[str, jax.Array]:
    """Random weights; gains away from their neutral value, so that a lost one would show."""
    rng = np.random.default_rng(7)
    params = {}
    for name, shape in parameter_shapes(config).items():
        gain = name.endswith(".gain")
        scale = 0.2 if gain else 1.0 if "table" in name else shape[0] ** -0.5
        value = (1.0 - config.norm_offset if gain else 0.0) + scale * rng.standard_normal(shape)
        # Rounded to bfloat16 in every dtype, so that the networks of a config are one network.
        value = np.asarray(value, jnp.bfloat16).astype(np.float64)
        params[name] = jnp.asarray(value, "float32" if gain and dtype == "bfloat16" else dtype)
    return params


def network(name: str, layout: str = "unrolled", dtype: str = "float32") -> Decoder:
    """The network of a config."""
    return _network(name, layout, dtype)


@functools.cache
def _network(name: str, layout: str, dtype: str) -> Decoder:
    return build_decoder(CONFIGS[name], parameters(CONFIGS[name], dtype), layout)


def token_rows(config: ModelConfig, seed: int = 3) -> list[np.ndarray]:
    """The rows' own tokens, int32 [length] each."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, config.vocab_size, length).astype(np.int32) for length in LENGTHS]


def padded(rows, *, width: int = WIDTH, left: bool = False, fill: int = 0, lengths=None) -> Batch:
    """Rows as a batch, padded with `fill` on one side."""
    tokens = np.full((len(rows), width), fill, np.int32)
    valid = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, at], valid[i, at] = row, True
    return Batch.make(tokens, valid, packed=False, lengths=lengths)


def batch_of(name: str, **options) -> Batch:
    """The rows of a configuration as a batch."""
    return padded(token_rows(CONFIGS[name]), **options)


@jax.jit
def forward(net: Decoder, batch: Batch):
    """One program for one structure; every number in it is an argument."""
    return net(batch)


# For what is held to equal numbers only.
quick_forward = jax.jit(lambda net, batch: net(batch), compiler_options=QUICK)
plain_forward = jax.jit(lambda net, batch: net(batch), compiler_options=PLAIN)


def noise(*shape, tag: str = "") -> np.ndarray:
    """A fixed random array, float32."""
    seed = zlib.crc32(repr((shape, tag)).encode())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def own(array, row: int, length: int):
    """One row's own tokens in a right-padded array [B, T, ...]."""
    return np.asarray(array)[row, :length]


def close(ours, theirs, *, tolerance: float = 1e-5) -> None:
    """Same numbers: max |difference| <= 1e-5 x max |value|, on every array of two trees."""
    ours, theirs = jax.device_get((ours, theirs))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for path, one in jax.tree_util.tree_leaves_with_path(theirs):
        other = functools.reduce(lambda tree, key: tree[_key(key)], path, ours)
        assert one.shape == other.shape and one.dtype == other.dtype, path
        if np.issubdtype(one.dtype, np.integer):
            np.testing.assert_array_equal(other, one, err_msg=str(path))
        else:
            scale = max(float(np.max(np.abs(one), initial=0.0)), 1e-3)
            difference = float(np.max(np.abs(other - one), initial=0.0))
            assert difference <= tolerance * scale, (path, difference, scale)


def _key(entry):
    return entry.key if hasattr(entry, "key") else entry.idx


def same_bits(ours, theirs) -> None:
    """Same bits: `==` on every array of two trees."""
    ours, theirs = jax.device_get((ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
