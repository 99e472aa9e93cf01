"""Crosscoders whose latents, activations and truths are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.build import build
from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary


def random_crosscoder(
    latents: int = 20, width: int = 6, seed: int = 0, threshold: float = 0.3, **fields
) -> Dictionary:
    """Untied rows of different norms, biases away from zero, a threshold that bites."""
    config = DictionaryConfig(
        **{"width": width, "latents": latents, "inputs": 2, "code_norm": "crosscoder"} | fields
    )
    draw = np.random.default_rng(seed)
    d = build(config, jax.random.key(seed), tied=False, transposed=False, statistics=(
        {f"{what}_{side}": jnp.asarray(draw.uniform(0.5, 1.5, (2, width)), jnp.float32)
         for what in ("shift", "scale") for side in ("in", "out")} if config.normaliser else None
    ))  # fmt: skip
    arrays = d.arrays()
    scale = draw.uniform(0.3, 2.0, (latents, 2, 1))
    decoder = np.asarray(arrays["decoder"]).reshape(latents, 2, width) * scale
    arrays["decoder"] = jnp.asarray(decoder.reshape(latents, -1), jnp.float32)
    arrays["decoder_bias"] = jnp.asarray(draw.normal(size=(2, width)), jnp.float32)
    arrays["encoder_bias"] = jnp.asarray(draw.normal(size=latents) * 0.1, jnp.float32)
    # The last latent never fires.
    arrays["encoder_bias"] = arrays["encoder_bias"].at[-1].set(-1e3)
    arrays["threshold"] = jnp.full(arrays["threshold"].shape, threshold)
    return Dictionary(config, arrays)


def activations(rows: int, width: int = 6, seed: int = 1) -> jax.Array:
    """float32 [rows, 2, width]: two models that agree in part."""
    draw = np.random.default_rng(seed)
    common, own = draw.normal(size=(rows, 1, width)), draw.normal(size=(rows, 2, width))
    return jnp.asarray(common + 0.5 * own, jnp.float32)
