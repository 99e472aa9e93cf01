"""The package's own dictionaries of every kind, and networks small enough to try them on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.build import build
from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.interventions import verbs
from interp_jax.models.decoder import build_decoder
from tests.interventions.contract import CONFIGS, QUICK, batch_of, noise, parameters

D, F = 16, 24
ACTIVATIONS = ("relu", "topk", "batch_topk", "jumprelu", "gated")


def own(activation: str, seed: int = 0, **fields) -> Dictionary:
    """A dictionary with every array away from its neutral value."""
    fields = {"width": D, "latents": F, "code_norm": "sae", "centred": True} | fields
    config = DictionaryConfig(activation=activation, **fields)
    made = build(config, jax.random.key(seed), k=3, transposed=False)
    arrays = {
        name: value + 0.2 * noise(*value.shape, tag=f"{name}{seed}")
        for name, value in made.arrays().items()
        if value.dtype == jnp.float32 and name != "threshold"
    }
    threshold = jnp.full(made.array("threshold").shape, 0.4)
    return Dictionary(config, made.arrays() | arrays | {"threshold": threshold})


def normalised(activation: str, seed: int, **fields) -> Dictionary:
    """The same with a normaliser."""
    ones = {
        f"{kind}_{side}": jnp.full((1, D), float(kind == "scale"))
        for kind in ("shift", "scale") for side in ("in", "out")
    }  # fmt: skip
    config = DictionaryConfig(
        width=D, latents=F, activation=activation, code_norm="sae", normaliser=True, **fields
    )
    plain = build(config, jax.random.key(seed), k=3, transposed=False, statistics=ones)
    arrays = plain.arrays() | {
        "shift_in": 0.3 * noise(1, D, tag="si"), "shift_out": 0.3 * noise(1, D, tag="so"),
        "scale_in": jnp.exp(0.3 * noise(1, D, tag="ci")),
        "scale_out": jnp.exp(0.3 * noise(1, D, tag="co")),
        "encoder_bias": 0.2 * noise(F, tag="bias"),
    }  # fmt: skip
    return Dictionary(config, arrays)


@functools.cache
def each() -> tuple[Dictionary, ...]:
    """One for each layer of the network: five activations, the last one also normalised."""
    return (*(own(a, i) for i, a in enumerate(ACTIVATIONS[:4])), normalised("gated", 4))


@functools.cache
def small(layers: int):
    """As many layers as a test needs: compiling is what takes time here."""
    config = dataclasses.replace(CONFIGS["llama"], n_layers=layers)
    return build_decoder(config, parameters(config))


tape_of = jax.jit(
    lambda net, batch: net(batch, logits_at="none")[1], compiler_options=QUICK
)  # fmt: skip


def seen(*edits, layers: int = 1):
    """Tape of a small network with edits in place."""
    return tape_of(verbs.compose(*edits)(small(layers)), batch_of("llama"))


def around(layer: int, edit):
    """The edit with a look at its site before and after."""
    look = lambda when: verbs.read(f"resid_post[{layer}]", name=f"{when}{layer}")
    return (look("before"), edit, look("after"))


@jax.jit
def told_by(dictionary, x):
    """Reconstruction, code and scaled code of x [B, T, D], straight from the dictionary."""
    return dictionary(x), dictionary.encode(x), dictionary.activations(x)
