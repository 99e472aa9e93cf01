"""Fresh dictionaries: SAEs, transcoders, crosscoders, and where their bias starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.config import DictionaryConfig, parameter_shapes
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError


def build(
    config: DictionaryConfig,
    key: jax.Array,
    *,
    k: int | None = None,
    init_norm: float = 1.0,
    tied: bool = True,
    transposed: bool = True,
    statistics: dict[str, jax.Array] | None = None,
) -> Dictionary:
    """A fresh dictionary (crosscoder paper, section 3.3 of the appendix's recipe).

    Args:
        config: what is built.
        key: typed key.
        k: mean active latents per row, for `topk` and `batch_topk`; at most F.
        init_norm: L2 norm of every encoder row, per input. The paper takes 0.005 for L1 and 1.0
            for BatchTopK; results depend on it.
        tied: all inputs start with the same directions, so that Delta is 0.5 for every latent
            (for latents that never fire it stays so: count classes over alive ones).
        transposed: the decoder starts as the encoder. Else it draws its own directions, which it
            does anyway where inputs and outputs differ.
        statistics: shifts and scales, when the config has a normaliser (see `normaliser`).

    Raises:
        UserError: k out of range, or arrays that do not fit the config.
    """
    if k is not None and not 0 < k <= config.latents:
        raise UserError(found=f"k = {k}", expected=f"1 to {config.latents}", do="choose another k")
    read = len(config.read_inputs)
    encoder = _directions(
        keys.fold(key, "encoder"), config.latents, read, config.width, init_norm, tied
    )
    fits = (read, config.width) == (config.outs, config.out_width)
    decoder = jnp.array(encoder, copy=True)  # its own buffer: both are donated in training
    if not (transposed and fits):
        decoder = _directions(
            keys.fold(key, "decoder"),
            config.latents,
            config.outs,
            config.out_width,
            init_norm,
            tied,
        )
    arrays = {name: jnp.zeros(shape) for name, shape in parameter_shapes(config).items()}
    arrays |= {"encoder": encoder, "decoder": decoder} | dict(statistics or {})
    if config.gain:
        arrays["gain"] = jnp.ones(config.latents)
    if config.activation == "jumprelu":
        arrays["jump_threshold"] = jnp.full(config.latents, 1e-3)
    if k is not None:
        arrays["k"] = jnp.asarray(k, jnp.int32)
    return Dictionary(config, arrays)


def _directions(key, latents: int, parts: int, width: int, norm: float, tied: bool) -> jax.Array:
    """[F, parts*D] uniform directions, of length `norm` in each part."""
    drawn = 1 if tied else parts
    rows = jax.random.uniform(key, (latents, drawn, width), jnp.float32, -1.0, 1.0)
    rows = norm * rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return jnp.broadcast_to(rows, (latents, parts, width)).reshape(latents, parts * width)


def sae(width: int, latents: int, key: jax.Array, *, k: int | None = None, **fields: Any):
    """A sparse autoencoder over x [..., D]; `fields` as in `DictionaryConfig` and `build`."""
    return _build(dict(width=width, latents=latents), key, k, fields)


def transcoder(
    width: int,
    width_out: int,
    latents: int,
    key: jax.Array,
    *,
    k: int | None = None,
    skip: bool = False,
    **fields: Any,
) -> Dictionary:
    """A transcoder: x at one site [..., D] to what another site holds [..., width_out].

    `skip` adds a linear map from the input, which starts at zero.
    """
    own = dict(width=width, width_out=width_out, latents=latents, skip=skip)
    return _build(own, key, k, fields)


def crosscoder(
    inputs: int, width: int, latents: int, key: jax.Array, *, k: int | None = None, **fields: Any
) -> Dictionary:
    """A crosscoder over M models or layers, x [..., M, D], with the paper's code norm."""
    own = dict(inputs=inputs, width=width, latents=latents)
    return _build(own, key, k, {"code_norm": "crosscoder"} | fields)


def _build(own: dict[str, Any], key: jax.Array, k: int | None, fields: dict[str, Any]):
    known = {field.name for field in dataclasses.fields(DictionaryConfig)}
    config = {name: value for name, value in fields.items() if name in known}
    rest = {name: value for name, value in fields.items() if name not in known}
    return build(DictionaryConfig(**own, **config), key, k=k, **rest)


def geometric_median(x: jax.Array, steps: int = 100, tolerance: float = 1e-5) -> jax.Array:
    """The point of least summed distance, per part (Weiszfeld's iteration from the mean).

    Args:
        x: float32 [B, O, D].
        steps: at most so many iterations.
        tolerance: stop when every part moved less.

    Returns:
        float32 [O, D].
    """
    x = x.astype(jnp.float32)

    def distance(a: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(a), axis=-1))

    def unfinished(state):
        _, moved, step = state
        return (step < steps) & (moved >= tolerance)

    def improve(state):
        guess, _, step = state
        # A guess on a data point would weigh it infinitely; so much is near enough.
        weights = 1.0 / jnp.maximum(distance(x - guess[None]), 1e-10)
        weights = weights / jnp.sum(weights, axis=0, keepdims=True)
        better = jnp.sum(weights[:, :, None] * x, axis=0)
        return better, jnp.max(distance(better - guess)), step + 1

    start = (jnp.mean(x, axis=0), jnp.asarray(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, improve, start)[0]


def start_bias(dictionary: Dictionary, y: jax.Array) -> Dictionary:
    """The dictionary with its decoder bias at the geometric median of what it reconstructs.

    Args:
        dictionary: fresh.
        y: the first batch of targets, [..., O, D] or [..., D] at O = 1.
    """
    target = dictionary.normalise_targets(dictionary.targets(y))
    arrays = dictionary.arrays() | {"decoder_bias": geometric_median(target)}
    return Dictionary(dictionary.config, arrays)


def normaliser(
    mean: jax.Array, std: jax.Array, target_rms: float | None = 1.0, side: str = "in"
) -> dict[str, jax.Array]:
    """Shift and scale from statistics (section 2.2).

    Args:
        mean: float32 [M, D].
        std: float32 [M, D].
        target_rms: one scale per input, target_rms / sqrt(sum of variances + 1e-8), which keeps
            the relative variances; None: each neuron by 1 / (std + 1e-8).
        side: `in` or `out`.

    Returns:
        `shift_<side>` and `scale_<side>`, float32 [M, D].
    """
    if target_rms is None:
        scale = 1.0 / (std + 1e-8)
    else:
        total = jnp.sum(jnp.square(std), axis=-1, keepdims=True)
        scale = jnp.broadcast_to(target_rms / jnp.sqrt(total + 1e-8), std.shape)
    return {f"shift_{side}": mean, f"scale_{side}": scale}
