"""`config.json` of seven families into `ModelConfig`, and back.

Everything in the json is either read here, or listed in `hf_fields` as not
changing the forward pass; anything else is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from interp_jax.models.config import LayerKind, ModelConfig
from interp_jax.models.hf_fields import ACTIVATIONS, ARCHITECTURES, MODEL_TYPES, Fields
from interp_jax.models.hf_rope import FULL, SLIDING, ropes_from_hf, ropes_to_hf
from interp_jax.runtime.errors import UserError

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "mlp_width",
}
GEMMAS = ("gemma", "gemma2", "gemma3")


def repeating(kinds: Sequence[LayerKind]) -> tuple[LayerKind, ...]:
    """The shortest pattern whose repetition, cut to length, gives `kinds`."""
    for period in range(1, len(kinds) + 1):
        if all(kinds[i] == kinds[i % period] for i in range(len(kinds))):
            return tuple(kinds[:period])
    return tuple(kinds)


def config_from_hf(values: dict[str, Any]) -> ModelConfig:
    """The `ModelConfig` of a parsed Hugging Face `config.json`.

    Raises:
        UserError: an unknown `model_type`, a missing size, a field that is not
            known, or a known field with a value this decoder does not compute.
    """
    model_type = values.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(
            found=f"model_type {model_type!r} in config.json",
            expected="one of " + ", ".join(MODEL_TYPES),
            do="choose a model of one of these families (of Gemma 3 the text-only checkpoints)",
        )
    family = MODEL_TYPES[model_type]
    fields = Fields(values, family)
    sizes = {ours: fields.get(theirs) for theirs, ours in _SIZES.items()}
    if missing := [theirs for theirs, ours in _SIZES.items() if not isinstance(sizes[ours], int)]:
        raise UserError(
            found=f"config.json without a whole number for {', '.join(missing)}",
            expected="the sizes of the network",
            do="complete config.json",
        )
    heads = sizes["n_heads"]
    kv_heads = fields.get("num_key_value_heads") or heads
    head_dim = fields.get("head_dim") or sizes["width"] // heads
    if heads % kv_heads or head_dim % 2:
        raise UserError(
            found=f"{heads} heads, {kv_heads} key-value heads of width {head_dim}",
            expected="heads a multiple of key-value heads, and an even width",
            do="check config.json",
        )
    gemma = family in GEMMAS
    post = family in ("gemma2", "gemma3")
    if family in ("mistral", "qwen2"):
        # Fixed by the family; `hf_fields` refuses a config.json that says otherwise.
        attention_bias = family == "qwen2"
    else:
        attention_bias = bool(fields.get("attention_bias", False))
    scalar = fields.get("query_pre_attn_scalar") if post else head_dim
    config = ModelConfig(
        family=family,
        **sizes,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        pattern=_pattern(fields, sizes["n_layers"]),
        query_scale=float(scalar) ** -0.5,
        norm_eps=float(fields.get("rms_norm_eps")),
        norm_offset=1.0 if gemma else 0.0,
        embed_scale=sizes["width"] ** 0.5 if gemma else 1.0,
        activation=_activation(fields),
        attn_softcap=_cap(fields.get("attn_logit_softcapping")) if family == "gemma2" else None,
        logit_softcap=_cap(fields.get("final_logit_softcapping")) if post else None,
        qkv_bias=attention_bias,
        out_bias=attention_bias and family != "qwen2",
        mlp_bias=family == "llama" and bool(fields.get("mlp_bias", False)),
        qk_norm=family in ("qwen3", "gemma3"),
        post_norms=post,
        tied_head=bool(fields.get("tie_word_embeddings")),
        max_context=int(fields.get("max_position_embeddings")),
    )
    if unknown := fields.unknown():
        raise UserError(
            found=f"fields of config.json that are not known: {', '.join(unknown)}",
            expected=f"fields whose effect on a {model_type} network is known",
            do="remove them if they do not change the forward pass, or choose another model",
        )
    return config


def _cap(value: Any) -> float | None:
    return None if value is None else float(value)


def _activation(fields: Fields) -> Any:
    if fields.family == "gemma":
        # Released Gemma 1 configs say `gelu` and mean the tanh form.
        name = fields.get("hidden_activation") or fields.get("hidden_act")
        fields.get("hidden_act")
        name = "gelu_pytorch_tanh" if name == "gelu" else name
    else:
        key = "hidden_activation" if fields.family in ("gemma2", "gemma3") else "hidden_act"
        name = fields.get(key)
    if name not in ACTIVATIONS:
        raise UserError(
            found=f"activation {name!r} in config.json",
            expected="one of " + ", ".join(ACTIVATIONS),
            do="choose another model",
        )
    return ACTIVATIONS[name]


def _pattern(fields: Fields, n_layers: int) -> tuple[LayerKind, ...]:
    """The repeating layer pattern: which layers are windowed, and their ropes."""
    family = fields.family
    ropes = ropes_from_hf(fields)
    window = fields.get("sliding_window") if family not in ("llama", "gemma") else None
    types = fields.get("layer_types") if family in ("qwen2", "qwen3", "gemma2", "gemma3") else None
    if family in ("qwen2", "qwen3"):
        first = fields.get("max_window_layers")
        window = window if fields.get("use_sliding_window") else None
        if types is None:
            types = [SLIDING if window and i >= first else FULL for i in range(n_layers)]
    elif family == "gemma3":
        # Both spellings are read, so that neither counts as unknown.
        private = fields.get("_sliding_window_pattern")
        every = fields.get("sliding_window_pattern")
        every = private or every
        if types is None:
            types = [SLIDING if (i + 1) % every else FULL for i in range(n_layers)]
    elif family == "gemma2":
        types = types or [FULL if i % 2 else SLIDING for i in range(n_layers)]
    else:
        types = [SLIDING if window else FULL] * n_layers
    if len(types) != n_layers or set(types) - {FULL, SLIDING}:
        raise UserError(
            found=f"layer_types {types} for {n_layers} layers",
            expected=f"one of {FULL} or {SLIDING} for each layer",
            do="check config.json",
        )
    if SLIDING in types and not window:
        raise UserError(
            found="layers of type sliding_attention and no sliding_window in use",
            expected="the width of the window",
            do="set sliding_window (and, for Qwen, use_sliding_window) in config.json",
        )
    kinds = {FULL: LayerKind(None, ropes[FULL]), SLIDING: LayerKind(window, ropes[SLIDING])}
    return repeating([kinds[kind] for kind in types])


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A `config.json` object that transformers 4 and 5, and we, read as `config`.

    Raises:
        UserError: the family's config.json cannot say what `config` says (for
            instance a Llama with a window).
    """
    family = config.family
    model_type = {ours: theirs for theirs, ours in MODEL_TYPES.items()}.get(family)
    if model_type is None:
        raise UserError(
            found=f"family {family!r}",
            expected="one of " + ", ".join(ARCHITECTURES),
            do="set the family of the config",
        )
    out: dict[str, Any] = {"architectures": [ARCHITECTURES[family]], "model_type": model_type}
    out |= {theirs: getattr(config, ours) for theirs, ours in _SIZES.items()}
    out |= {
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "max_position_embeddings": config.max_context,
        "attention_dropout": 0.0,
        "use_cache": True,
    }
    names = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
    out["hidden_act"] = names[config.activation]
    if family in GEMMAS:
        out["hidden_activation"] = out["hidden_act"]
    if family in ("llama", "qwen3", *GEMMAS):
        out["attention_bias"] = config.qkv_bias
    if family == "llama":
        out["mlp_bias"] = config.mlp_bias
    kinds = [config.layer_kind(layer) for layer in range(config.n_layers)]
    windows = {kind.window for kind in kinds} - {None}
    if len(windows) > 1:
        raise _cannot_say(family, [f"windows {sorted(w for w in windows if w)}"])
    window = next(iter(windows), None)
    if family not in ("llama", "gemma"):
        out["sliding_window"] = window
    if family in ("qwen2", "qwen3"):
        out |= {"use_sliding_window": window is not None, "max_window_layers": config.n_layers}
    if family in ("qwen2", "qwen3", "gemma2", "gemma3"):
        out["layer_types"] = [FULL if kind.window is None else SLIDING for kind in kinds]
    if family in ("gemma2", "gemma3"):
        scalar = config.query_scale**-2
        whole = round(scalar)
        out |= {
            "query_pre_attn_scalar": whole if abs(scalar - whole) < 1e-6 else scalar,
            "attn_logit_softcapping": config.attn_softcap,
            "final_logit_softcapping": config.logit_softcap,
        }
    out |= ropes_to_hf(config)
    back = config_from_hf(out)
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(back)
    if differ := [f"{key} {ours[key]!r}" for key in ours if ours[key] != theirs[key]]:
        raise _cannot_say(family, differ)
    return out


def _cannot_say(family: str, what: list[str]) -> UserError:
    return UserError(
        found=f"a {family} config with " + ", ".join(what),
        expected=f"a config that a {family} config.json can express",
        do="choose the family that has these, or change the config",
    )
