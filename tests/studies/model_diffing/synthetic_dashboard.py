"""A small dictionary with examples, for dashboards: words that a page must not believe."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import tokenizers

from interp_jax.dictionaries import examples as ex
from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.models.decoder import build_decoder
from interp_jax.models.tokenizer import SpecialIds, Tokenizer
from interp_jax.runtime import keys
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.studies.browsing import HOSTILE

WORDS = ["a", HOSTILE, "\n", " <script>", "&amp;", "\u202e", " ", "\t", " the", "</script>"]
VOCABULARY = 101
F, T = 150, 24
KEY = keys.root_key(0)


def make_tokenizer() -> Tokenizer:
    words = WORDS + [f" word{n}" for n in range(VOCABULARY - len(WORDS))]
    model = tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="a")
    backend = tokenizers.Tokenizer(model)
    backend.decoder = tokenizers.decoders.Fuse()
    return Tokenizer(backend, (), SpecialIds())


def make_network():
    config = tiny_config("llama")
    return build_decoder(config, random_parameters(config))


def make_dictionary(inputs: int = 2, latents: int = F) -> Dictionary:
    """Of two models: Delta spread over all classes, latent 3 without a decoder row."""
    width = tiny_config("llama").width
    if inputs == 1:
        return sae(width, latents, KEY, k=4)
    fresh = crosscoder(inputs, width, latents, KEY, k=4)
    rows = np.array(fresh.decoder_rows())
    rows[:, 0] *= np.linspace(0, 1, latents)[:, None]
    rows[:, 1] *= np.linspace(1, 0.05, latents)[:, None] ** 2
    rows[3] = 0
    arrays = fresh.arrays() | {"decoder": jnp.asarray(rows.reshape(latents, -1))}
    return Dictionary(fresh.config, arrays)


def make_examples(latents: int = F, rows: int = 60, seed: int = 0) -> ex.Examples:
    """Latent 7 is never active, latent 11 at one token; rows are documents."""
    draw = np.random.default_rng(seed)
    code = np.exp(draw.normal(0, 1, (rows, T, latents))).astype(np.float32)
    often = draw.random(latents) * 0.3
    code *= draw.random(code.shape) < often
    code[..., 7] = code[..., 11] = 0
    code[5, 9, 11] = 2.5
    tokens = draw.integers(0, VOCABULARY, (rows, T)).astype(np.int32)
    tokens[:, ::3] = draw.integers(0, len(WORDS), tokens[:, ::3].shape)
    return ex.collect_examples([(code, tokens)], latents, KEY)


def make_ratios(latents: int = F) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    values = draw.normal(0.5, 0.3, (2, latents))
    values[:, 7] = np.nan
    return {"nu_eps": values[0], "nu_r": values[1]}
