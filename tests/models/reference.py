"""The reference models of the parity ladder: tiny, random, far from neutral, hooked everywhere.

A case is made by transformers, saved by it, and read back by our reader of Hugging Face
folders. What a site holds there is looked up by the name that `SITES` gives for it, so the
translation table is tested with the numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
import tempfile
from typing import Any

import jax
import numpy as np
import pytest

from interp_jax.interventions.placing import compose
from interp_jax.interventions.verbs import read
from interp_jax.models.batch import Batch
from interp_jax.models.config import ModelConfig
from interp_jax.models.decoder import build_decoder
from interp_jax.models.hf_fields import ARCHITECTURES, MODEL_TYPES
from interp_jax.models.safetensors_io import read_hf
from interp_jax.models.sites import SITES
from interp_jax.testing.tiny import FAMILIES, tiny_hf_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # as quick here as two, and it does not spin where cores are shared

_FULL, _SLIDING = "full_attention", "sliding_attention"
# Depths at which the pattern repeats (so that it is scanned) and, where it has a period, leaves
# a remainder; an epsilon large enough to show.
_OVER: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 2},
    "mistral": {"num_hidden_layers": 2},
    "qwen2": {"num_hidden_layers": 4, "layer_types": [_FULL, _SLIDING] * 2},
    "qwen3": {"num_hidden_layers": 4, "layer_types": [_SLIDING, _FULL] * 2},
    "gemma": {"num_hidden_layers": 2},
    "gemma2": {"num_hidden_layers": 5},
    "gemma3": {"num_hidden_layers": 8},
}
_SMOLLM = {
    "num_hidden_layers": 2,
    "head_dim": 8,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
}
#: Case -> (family, arguments of the transformers config class).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    family: (family, tiny_hf_config(family) | _OVER[family] | {"rms_norm_eps": 0.01})
    for family in FAMILIES
}
CASES["smollm"] = ("llama", tiny_hf_config("llama") | _SMOLLM | {"rms_norm_eps": 0.01})
#: Deep enough that the pattern of six repeats, with a layer left over.
DEEP = "gemma3 deep"
_ALL_CASES = CASES | {DEEP: ("gemma3", CASES["gemma3"][1] | {"num_hidden_layers": 13})}

ROWS, LENGTH = 3, 14  # longer than the window of 5
LENGTHS = (14, 9, 3)  # of the ragged batch


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference model with what our reader made of its folder."""

    model: Any
    config: ModelConfig
    params: dict[str, jax.Array]


def randomise(model, seed: int = 0) -> None:
    """Weights with which every switch shows: no gain is neutral, no bias is 0.

    The logits have a standard deviation near 3, attention scores one near 2.
    """
    offset = 1.0 if "gemma" in model.config.model_type else 0.0
    tied = model.config.tie_word_embeddings
    for i, (name, parameter) in enumerate(model.named_parameters()):
        noise = np.random.default_rng([seed, i]).standard_normal(tuple(parameter.shape))
        if name.endswith("norm.weight"):
            value = 1.0 - offset + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name:
            value = noise * (3.0 / parameter.shape[1] ** 0.5 if tied else 1.0)
        else:
            value = (3.0 if "lm_head" in name else 1.5) * noise / parameter.shape[1] ** 0.5
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))


@functools.cache
def reference(case: str) -> Reference:
    """The model of `case`, made once."""
    family, arguments = _ALL_CASES[case]
    model_type = {ours: theirs for theirs, ours in MODEL_TYPES.items()}[family]
    config = transformers.AutoConfig.for_model(model_type, **arguments)
    config._attn_implementation = "eager"
    model = getattr(transformers, ARCHITECTURES[family])(config).eval()
    assert model.config._attn_implementation == "eager"
    randomise(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return Reference(model, *read_hf(folder))


def tokens_of(case: str) -> np.ndarray:
    """int32 [ROWS, LENGTH]."""
    seed = list(_ALL_CASES).index(case)
    return np.random.default_rng(seed).integers(3, 101, (ROWS, LENGTH)).astype(np.int32)


def padding(side: str) -> np.ndarray:
    """bool [ROWS, LENGTH]; which tokens are the rows' own: `none`, `left` or `right` padded."""
    columns = np.arange(LENGTH)[None, :]
    lengths = np.asarray((LENGTH,) * ROWS if side == "none" else LENGTHS)[:, None]
    return columns >= LENGTH - lengths if side == "left" else columns < lengths


def run_reference(model, tokens: np.ndarray, valid: np.ndarray, **options):
    """The reference's output; positions are counted over each row's own tokens."""
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    with torch.no_grad():
        return model(
            input_ids=torch.from_numpy(tokens.astype(np.int64)),
            attention_mask=torch.from_numpy(valid.astype(np.int64)),
            position_ids=torch.from_numpy(positions),
            use_cache=False,
            **options,
        )


# `model.layers.{l}.mlp output [0]`: a module, and what a hook on it sees.
_HOOK = re.compile(r"((?:model|lm_head)[\w.{}]*) (input|output)(?: \[(\d)\])?")


def hooked_by(site: str, post_norms: bool) -> tuple[str, str, int | None] | None:
    """(module, `input` or `output`, index) that `SITES` gives for a site, or None."""
    plain, _, other = SITES[site].hf.partition("; with post-norms ")
    match = _HOOK.match(other if other and post_norms else plain)
    if match is None:
        return None
    module, side, index = match.groups()
    return module, side, None if index is None else int(index)


@contextlib.contextmanager
def _patched(owner, name, make):
    old = getattr(owner, name)
    setattr(owner, name, make(old))
    try:
        yield
    finally:
        setattr(owner, name, old)


def capture(ref: Reference, tokens: np.ndarray, valid: np.ndarray):
    """(logits, site -> what the reference holds there), layers stacked in front.

    Hooks go where `SITES` says. Queries and keys are what `apply_rotary_pos_emb` returns,
    scores what goes into the softmax (masked ones far below zero).
    """
    config, seen = ref.config, {}
    modules = dict(ref.model.named_modules())

    def keep(site, value):
        seen.setdefault(site, []).append(value.detach().numpy().copy())

    def hook(site, index):
        def on(module, args, kwargs, *output):
            value = output[0] if output else args[0] if args else kwargs["hidden_states"]
            keep(site, value if index is None else value[index])

        return on

    def rotary(old):
        def both(*args, **kwargs):
            q, k = old(*args, **kwargs)
            keep("attn_q", q.transpose(1, 2))
            keep("attn_k", k.transpose(1, 2))
            return q, k

        return both

    def softmax(old):
        def one(scores, *args, **kwargs):
            keep("attn_scores", scores)
            return old(scores, *args, **kwargs)

        return one

    with contextlib.ExitStack() as stack:
        for site, kind in SITES.items():
            at = hooked_by(site, config.post_norms)
            if at is None:
                continue
            module, side, index = at
            for layer in range(config.n_layers if kind.layered else 1):
                target = modules[module.format(l=layer)]
                if side == "input":
                    handle = target.register_forward_pre_hook(hook(site, index), with_kwargs=True)
                else:
                    handle = target.register_forward_hook(hook(site, index), with_kwargs=True)
                stack.callback(handle.remove)
        code = sys.modules[type(ref.model).__module__]
        stack.enter_context(_patched(code, "apply_rotary_pos_emb", rotary))
        stack.enter_context(_patched(torch.nn.functional, "softmax", softmax))
        out = run_reference(ref.model, tokens, valid, output_hidden_states=True)
    sites = {}
    for site, values in seen.items():
        kind = SITES[site]
        assert len(values) == (config.n_layers if kind.layered else 1), site
        value = np.stack(values) if kind.layered else values[0]
        if kind.axes in ("BTHd", "BTKd"):
            value = value.reshape(*value.shape[:3], -1, config.head_dim)
        sites[site] = value
    return out, sites


FORWARD = jax.jit(lambda network, batch: network(batch))
# For programs that read everything: built in half the time, and no part of what is tested.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_OBSERVE = jax.jit(lambda network, batch: network(batch), compiler_options=QUICK)


@functools.cache
def observed(case: str, side: str):
    """(logits, tape with every site as it is) of our network; unrolled, reference attention."""
    ref = reference(case)
    network = dataclasses.replace(build_decoder(ref.config, ref.params), path="reference")
    network = compose(*map(read, SITES))(network)
    return _OBSERVE(network, Batch.make(tokens_of(case), padding(side)))
