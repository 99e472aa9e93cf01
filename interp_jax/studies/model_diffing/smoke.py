"""What a smoke run studies where nothing is given: a shaken model, and a crosscoder of 60 steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.build import crosscoder, start_bias
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.training import paper_optimiser, start, train_step, warmed_up
from interp_jax.generation.language_model import LanguageModel
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime import keys

LATENTS, K, STEPS, ROWS = 256, 16, 60, 256


def shaken(lm: LanguageModel, seed: int, amount: float = 0.1) -> LanguageModel:
    """The model with noise in the weights of its first block: something to find."""
    params = dict(lm.network.parameters())
    for name, value in params.items():
        if name.startswith("layers.0.") and value.ndim == 2:
            noise = jax.random.normal(keys.fold(keys.root_key(seed), "shaken", name), value.shape)
            size = amount * jnp.std(value.astype(jnp.float32))
            params[name] = (value + size * noise).astype(value.dtype)
    network = build_decoder(lm.network.config, params, lm.network.layout)
    return dataclasses.replace(lm, network=network)


def little_crosscoder(activations: Iterable[jax.Array], width: int, seed: int) -> Dictionary:
    """A crosscoder trained for `STEPS` steps on the rows [N, 2, D] that are there.

    Args:
        activations: batches of kept rows; all of them are held.
    """
    rows = jnp.concatenate(list(activations))
    optimiser = paper_optimiser(warmed_up(1e-2, 5))
    recipe = Recipe(dead_after=10_000, threshold_start=20, threshold_decay=0.9)
    key = keys.root_key(seed)
    d = crosscoder(2, width, LATENTS, keys.fold(key, "dictionary"), k=K)
    state = start(start_bias(d, rows[:ROWS]), optimiser)

    @jax.jit
    def steps(state):
        def one(state, number):
            place = jax.random.randint(keys.fold(key, "rows", number), (ROWS,), 0, rows.shape[0])
            return train_step(state, rows[place], recipe, optimiser)

        return jax.lax.scan(one, state, jnp.arange(STEPS, dtype=jnp.int32))[0]

    return steps(state).dictionary()
