"""The fields of a Hugging Face `config.json`, per family, as data.

Three tables: the class defaults a short json relies on, the fields known not to
change the forward pass, and the fields that would change it and must therefore
hold one of the listed values. A field in none of them, and not read by
`families`, is refused by name.
"""

from __future__ import annotations

from typing import Any

#: `model_type` of a config.json -> family of `ModelConfig`, and its model class.
MODEL_TYPES: dict[str, str] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
ARCHITECTURES: dict[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}

_GEMMA2: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
_QWEN: dict[str, Any] = {
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
#: What a missing field means. Sizes without an entry here must be written.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "num_key_value_heads": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": dict(_QWEN),
    "qwen3": _QWEN | {"head_dim": 128},
    "gemma": {
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "gemma2": dict(_GEMMA2),
    "gemma3": _GEMMA2
    | {
        "max_position_embeddings": 131072,
        "final_logit_softcapping": None,
        "sliding_window_pattern": 6,
    },
}

#: Fields about training, generation, storage or bookkeeping.
HARMLESS: frozenset[str] = frozenset(
    """_name_or_path architectures attention_dropout bad_words_ids begin_suppress_tokens
    bos_token_id cache_implementation chunk_size_feed_forward decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    id2label initializer_range label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    attn_implementation _attn_implementation _attn_implementation_autoset
    is_llama_config""".split()
)

_NOT_TRUE = (False, None)
#: Fields that would change the forward pass: the values that do not.
MUST_BE: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": _NOT_TRUE,
    "cross_attention_hidden_size": (None,),
    "is_decoder": (True, False, None),
    "is_encoder_decoder": _NOT_TRUE,
    "partial_rotary_factor": (1, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "rope_interleaved": _NOT_TRUE,
    "use_bidirectional_attention": _NOT_TRUE,
    "use_mrope": _NOT_TRUE,
}
#: Further fields of one family.
FAMILY_HARMLESS: dict[str, frozenset[str]] = {
    # Gemma 2 and 3 name the gate's activation `hidden_activation`; the older twin is not read.
    "gemma2": frozenset({"hidden_act", "sliding_window_size"}),
    "gemma3": frozenset({"hidden_act"}),
}
FAMILY_MUST_BE: dict[str, dict[str, tuple[Any, ...]]] = {
    "qwen2": {"attention_bias": (True, None), "mlp_bias": _NOT_TRUE},
    "mistral": {"attention_bias": _NOT_TRUE, "mlp_bias": _NOT_TRUE},
    "qwen3": {"mlp_bias": _NOT_TRUE},
    "gemma": {"mlp_bias": _NOT_TRUE},
    "gemma2": {"mlp_bias": _NOT_TRUE},
    # The reference reads Gemma 3's score cap and does not apply it, so no one can mean one.
    "gemma3": {"mlp_bias": _NOT_TRUE, "attn_logit_softcapping": (None,)},
}

#: Activation names of config.json -> ours. Gemma 1's `gelu` is told apart in `families`.
ACTIVATIONS: dict[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


class Fields:
    """A config.json being read: remembers which fields were looked at.

    Args:
        values: the parsed json object.
        family: our family name, for the defaults and the tables above.
    """

    def __init__(self, values: dict[str, Any], family: str):
        self.values, self.family = values, family
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, default: Any = None) -> Any:
        """The field, else the family's default, else `default`."""
        self._read.add(key)
        return self.values.get(key, DEFAULTS[self.family].get(key, default))

    def unknown(self) -> list[str]:
        """Fields nobody read and no table knows, and those holding a value that matters."""
        harmless = HARMLESS | FAMILY_HARMLESS.get(self.family, frozenset())
        must_be = MUST_BE | FAMILY_MUST_BE.get(self.family, {})
        left = []
        for key in sorted(set(self.values) - self._read - harmless):
            value = self.values[key]
            if key not in must_be:
                left.append(f"{key}={value!r}")
            elif value not in must_be[key]:
                left.append(f"{key}={value!r} (can only be {' or '.join(map(repr, must_be[key]))})")
        return left
