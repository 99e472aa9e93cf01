"""Tiny random networks of every family, with every switch of the family on.

Windows are shorter than the sequences tests use, soft-caps bite, biases and gains
are not at their neutral values, and the layer pattern does not divide the depth,
so that a forward pass which ignores a switch gives other numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.families import config_from_hf
from interp_jax.models.hf_fields import MODEL_TYPES
from interp_jax.models.placing import host_dtype, parameter_dtype

FAMILIES: tuple[str, ...] = tuple(MODEL_TYPES.values())

_SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WINDOW = 5
_CAPS: dict[str, Any] = {
    "query_pre_attn_scalar": 10,
    "final_logit_softcapping": 3.0,
}
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

_SWITCHES: dict[str, dict[str, Any]] = {
    "llama": {
        "head_dim": 8,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": _LLAMA3 | {"rope_theta": 500.0},
    },
    "mistral": {
        "head_dim": 12,
        "sliding_window": _WINDOW,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": _WINDOW,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "qwen3": {
        "head_dim": 12,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": _WINDOW,
        "max_window_layers": 2,
        "rope_parameters": _LINEAR | {"rope_theta": 500.0},
    },
    "gemma": {
        "head_dim": 12,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "gemma2": _CAPS
    | {
        "attn_logit_softcapping": 2.0,
        "head_dim": 12,
        "attention_bias": True,
        "sliding_window": _WINDOW,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    # Six layers repeat: five local and one global; two more are left over.
    "gemma3": _CAPS
    | {
        "num_hidden_layers": 8,
        "head_dim": 12,
        "attention_bias": True,
        "sliding_window": _WINDOW,
        "rope_parameters": {
            "full_attention": _LINEAR | {"rope_theta": 2000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
}


def tiny_hf_config(family: str) -> dict[str, Any]:
    """Arguments for the transformers config class of `family`, freshly made."""
    return {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in (_SIZES | _SWITCHES[family]).items()
    }


def tiny_config(family: str, **over: Any) -> ModelConfig:
    """The same network as `tiny_hf_config`, with fields of `ModelConfig` replaced by `over`."""
    model_type = {ours: theirs for theirs, ours in MODEL_TYPES.items()}[family]
    config = config_from_hf({"model_type": model_type, **tiny_hf_config(family)})
    return dataclasses.replace(config, **over)


def random_parameters(
    config: ModelConfig, seed: int = 0, dtype: str = "float32"
) -> dict[str, jax.Array]:
    """Canonical parameters that are far from neutral: no gain is 1, no bias is 0.

    Matrices have standard deviation 1/sqrt(in); embedded tokens (after `embed_scale`)
    have 1; norm gains (with the offset) lie around 1, and are float32.
    """
    out, wanted = {}, host_dtype(dtype)
    for i, (name, shape) in enumerate(parameter_shapes(config).items()):
        noise = np.random.default_rng([seed, i]).standard_normal(shape)
        if name.endswith(".gain"):
            value = 1.0 - config.norm_offset + 0.2 * noise
        elif name.endswith(".bias"):
            value = 0.2 * noise
        elif name == "embed.table":
            value = noise / config.embed_scale
        else:
            value = noise / math.sqrt(shape[0])
        out[name] = jax.device_put(value.astype(parameter_dtype(name, wanted)))
    return out
