"""Names of the same tensor in our tree, in Hugging Face files and in GGUF files.

The tables are data; `{l}` stands for the layer. Matrices are stored [out, in] by
both formats and [in, out] by us, except the embedding table, which is [V, D]
everywhere.
"""

from __future__ import annotations

import re

from interp_jax.models.config import ModelConfig, parameter_shapes

_PROJECTIONS = {
    "q": ("self_attn.q_proj", "attn_q"),
    "k": ("self_attn.k_proj", "attn_k"),
    "v": ("self_attn.v_proj", "attn_v"),
    "o": ("self_attn.o_proj", "attn_output"),
    "gate": ("mlp.gate_proj", "ffn_gate"),
    "up": ("mlp.up_proj", "ffn_up"),
    "down": ("mlp.down_proj", "ffn_down"),
}
_OUTER = {
    "embed.table": ("model.embed_tokens.weight", "token_embd.weight"),
    "final_norm.gain": ("model.norm.weight", "output_norm.weight"),
    "head.weight": ("lm_head.weight", "output.weight"),
}
_NORMS = {
    "attn_norm.gain": ("input_layernorm.weight", "attn_norm.weight"),
    "q_norm.gain": ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    "k_norm.gain": ("self_attn.k_norm.weight", "attn_k_norm.weight"),
}
#: Without post-norms "post_attention_layernorm" is the MLP's own norm, with them what it says.
_MLP_NORM = {"mlp_norm.gain": ("post_attention_layernorm.weight", "ffn_norm.weight")}
_POST_NORMS = {
    "attn_post_norm.gain": ("post_attention_layernorm.weight", "post_attention_norm.weight"),
    "mlp_norm.gain": ("pre_feedforward_layernorm.weight", "ffn_norm.weight"),
    "mlp_post_norm.gain": ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
}
#: Buffers that old checkpoints carry and that are computed, not read.
HF_BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def _inner(config: ModelConfig) -> dict[str, tuple[str, str]]:
    table = dict(_NORMS) | (_POST_NORMS if config.post_norms else _MLP_NORM)
    for ours, (hf, gguf) in _PROJECTIONS.items():
        for part in ("weight", "bias"):
            table[f"{ours}.{part}"] = (f"{hf}.{part}", f"{gguf}.{part}")
    return table


def _names(config: ModelConfig, column: int, layer_prefix: str) -> dict[str, str]:
    inner, out = _inner(config), {}
    for name in parameter_shapes(config):
        if name in _OUTER:
            out[name] = _OUTER[name][column]
        else:
            _, layer, rest = name.split(".", 2)
            out[name] = layer_prefix.format(l=layer) + inner[rest][column]
    return out


def hf_names(config: ModelConfig) -> dict[str, str]:
    """Canonical name -> tensor name in a Hugging Face checkpoint."""
    return _names(config, 0, "model.layers.{l}.")


def gguf_names(config: ModelConfig) -> dict[str, str]:
    """Canonical name -> tensor name in a GGUF file."""
    return _names(config, 1, "blk.{l}.")


def is_transposed(name: str) -> bool:
    """Whether files hold the canonical parameter `name` with its two axes swapped."""
    return name.endswith(".weight")
