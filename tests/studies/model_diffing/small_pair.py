"""A base and a chat model that fit in a test: tiny networks, a tokenizer of words, a template."""

from __future__ import annotations

import functools
import json

import jax.numpy as jnp
import numpy as np
import tokenizers

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.generation.language_model import LanguageModel
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.decoder import build_decoder
from interp_jax.models.pretrained import Origin
from interp_jax.models.tokenizer import ControlToken, SpecialIds, Tokenizer
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.testing.tiny import random_parameters, tiny_config

CONFIG = tiny_config("llama")
LATENTS = 40
TWIN = 30
CONTROL = ("<|start|>", "<|end|>")
WORDS = [f" w{n}" for n in range(CONFIG.vocab_size - 6)]
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tokenizer() -> Tokenizer:
    vocabulary = [*CONTROL, "user", "assistant", "\n", "?", *WORDS]
    model = tokenizers.models.WordLevel({w: n for n, w in enumerate(vocabulary)}, unk_token="?")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r" ?\w+|\n"), "isolated"
    )
    backend.decoder = tokenizers.decoders.Fuse()
    control = [ControlToken(text, n) for n, text in enumerate(CONTROL)]
    return Tokenizer(backend, control, SpecialIds(eos=1, stop=(1,)))


def pair() -> tuple[LanguageModel, LanguageModel]:
    """The chat model's first block is another one; the rest is the base model's."""
    params, other = random_parameters(CONFIG, 0), random_parameters(CONFIG, 5)
    tuned = {n: other[n] if n.startswith("layers.0.") else p for n, p in params.items()}
    words = tokenizer()
    made = lambda p, name: LanguageModel(
        build_decoder(CONFIG, p), words, ChatTemplate(TEMPLATE),
        Origin(name, f"hash of {name}", "words", "float32"),
    )
    return made(params, "base"), made(tuned, "chat")


@functools.cache
def crosscoder() -> Dictionary:
    """Random directions, each active on the tenth of tokens that lie farthest along it.

    Their decoder rows point the same way, the base model's at another scale for each latent.

    TWIN is the base model's alone, in the direction of latent 2, the chat model's alone.
    """
    draw = np.random.default_rng(0)
    tokens = draw.integers(6, CONFIG.vocab_size, (16, 32))
    site = read("resid_post[1]", name="h")
    h = [np.asarray(run(lm.network, Batch.make(tokens), site)[1]["h"][0]) for lm in pair()]
    unit = draw.normal(size=(LATENTS, CONFIG.width))
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    along = (h[0] + h[1]).reshape(-1, CONFIG.width) @ unit.T / 2
    scale = np.concatenate([np.linspace(0, 1, LATENTS // 2), np.ones(LATENTS // 2)])[:, None]
    bias = -np.quantile(along, 0.9, axis=0)
    bias[-1] = -1e3  # never fires
    unit[TWIN] = unit[2]
    bias[TWIN] = -np.quantile(along[:, 2], 0.8)
    own = np.where(np.arange(LATENTS) == TWIN, 0.0, 1.0)[:, None]
    arrays = {
        "encoder": np.concatenate([unit, unit], axis=1) / 2, "encoder_bias": bias,
        "decoder": np.concatenate([scale * unit, own * unit], axis=1),
        "decoder_bias": np.stack([part.reshape(-1, CONFIG.width).mean(0) for part in h]),
    }  # fmt: skip
    config = DictionaryConfig(CONFIG.width, LATENTS, 2, activation="relu", code_norm="crosscoder")
    return Dictionary(config, {n: jnp.asarray(a, jnp.float32) for n, a in arrays.items()})


def write_conversations(path, count=20, seed=0):
    draw = np.random.default_rng(seed)
    said = lambda n: "".join(WORDS[i] for i in draw.integers(0, len(WORDS), n)).strip()
    lines = [
        json.dumps({"messages": [
            {"role": "user", "content": " " + said(3)},
            {"role": "assistant", "content": " " + said(int(draw.integers(14, 30)))},
        ]})
        for _ in range(count)
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small_config(workdir, data, **over) -> ModelDiffingConfig:
    fields = dict(
        workdir=str(workdir), model="base", other_model="chat", dictionary="planted", layer=1,
        data=str(data), length=48, batch_size=4, tokens=400, example_tokens=500, groups=4,
        effective=12, conversations=8, random_sets=1, resamples=100, explained=3,
        controls=("random",), checkpoint_every=1,
    )  # fmt: skip
    return ModelDiffingConfig(**fields | over)
