"""config.json to `ModelConfig` and back, in both spellings, and what is refused."""

import dataclasses

import pytest

from interp_jax.models.config import LayerKind, Llama3Scaling, ModelConfig, Rope
from interp_jax.models.families import config_from_hf, config_to_hf, repeating
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import FAMILIES, tiny_config, tiny_hf_config

pytestmark = pytest.mark.core

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}
GEMMA3 = {
    "model_type": "gemma3_text",
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}


def changed(base=SMOLLM2, **over):
    return {**base, **over}


def test_smollm2_in_the_older_spelling():
    assert config_from_hf(SMOLLM2) == ModelConfig(
        family="llama",
        vocab_size=49152,
        width=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        mlp_width=1536,
        pattern=(LayerKind(None, Rope(100000.0)),),
        query_scale=0.125,
        tied_head=True,
        max_context=8192,
    )


def test_gemma3_has_two_ropes_and_a_pattern_of_six():
    config = config_from_hf(GEMMA3)
    local, full = LayerKind(512, Rope(10000.0)), LayerKind(None, Rope(1e6, linear_factor=8.0))
    assert config.pattern == (local,) * 5 + (full,)
    assert [config.layer_kind(i).window for i in (4, 5, 6, 11, 25)] == [512, None, 512, None, 512]
    assert config.embed_scale == pytest.approx(1152**0.5)
    assert (config.norm_offset, config.qk_norm, config.post_norms) == (1.0, True, True)
    assert config.tied_head and config.query_scale == 1 / 16 and config.logit_softcap is None


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_llama3_scaling_in_both_spellings(key):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    values = {k: v for k, v in SMOLLM2.items() if not k.startswith("rope_")}
    values |= {key: scaling, "rope_theta": 500000.0}
    if key == "rope_parameters":
        values[key] = scaling | {"rope_theta": values.pop("rope_theta")}
    rope = config_from_hf(values).pattern[0].rope
    assert rope == Rope(500000.0, llama3=Llama3Scaling(32.0, 1.0, 4.0, 8192))


def test_qwen2_windows_only_from_max_window_layers():
    config = tiny_config("qwen2")
    assert [config.layer_kind(i).window for i in range(3)] == [None, 5, 5]
    assert config.qkv_bias and not config.out_bias
    off = config_from_hf(
        {"model_type": "qwen2", **tiny_hf_config("qwen2")} | {"use_sliding_window": False}
    )
    assert [kind.window for kind in off.pattern] == [None]


def test_gemma1_gelu_means_the_tanh_form():
    values = {"model_type": "gemma", **tiny_hf_config("gemma"), "hidden_act": "gelu"}
    assert config_from_hf(values).activation == "gelu_tanh"
    values = {"model_type": "gemma2", **tiny_hf_config("gemma2"), "hidden_activation": "gelu"}
    assert config_from_hf(values).activation == "gelu"


@pytest.mark.parametrize("family", FAMILIES)
def test_written_config_reads_back(family):
    config = tiny_config(family)
    assert config_from_hf(config_to_hf(config)) == config


def test_a_config_the_family_cannot_say_is_refused():
    window = (LayerKind(4, Rope(10000.0)),)
    with pytest.raises(UserError, match="pattern"):
        config_to_hf(dataclasses.replace(tiny_config("llama"), pattern=window))
    with pytest.raises(UserError, match="logit_softcap 5.0"):
        config_to_hf(dataclasses.replace(tiny_config("qwen3"), logit_softcap=5.0))


def test_pattern_is_the_shortest_that_repeats():
    a, b = LayerKind(3, Rope(1.0)), LayerKind(None, Rope(1.0))
    assert repeating([a, b, a, b, a]) == (a, b)
    assert repeating([a, a, a]) == (a,)
    assert repeating([b, a, a]) == (b, a, a)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(model_type="gpt_neox"), "gpt_neox"),
        (changed(model_type="gemma3"), "text-only"),
        (changed(clip_qkv=8.0), "clip_qkv=8.0"),
        (changed(clip_qkv=8.0, router=1), "clip_qkv=8.0, router=1"),
        (changed(rope_interleaved=True), "rope_interleaved=True"),
        (changed(quantization_config={"bits": 4}), "quantization_config"),
        (changed(partial_rotary_factor=0.5), "partial_rotary_factor"),
        (changed(hidden_act="relu"), "relu"),
        (changed(hidden_size=None), "hidden_size"),
        (changed(num_key_value_heads=2), "multiple"),
        (changed(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "yarn"),
        (changed(rope_scaling={"rope_type": "llama3", "factor": 4.0}), "low_freq_factor"),
        (changed(rope_scaling={"type": "linear", "factor": 2.0, "beta": 1}), "beta"),
        (changed(rope_parameters={"rope_type": "default", "rope_theta": 5.0}), "two spellings"),
        (changed(GEMMA3, use_bidirectional_attention=True), "use_bidirectional_attention"),
        (changed(GEMMA3, layer_types=["full_attention"]), "26 layers"),
        (changed(GEMMA3, sliding_window=None), "sliding_window"),
        (changed(model_type="qwen2", attention_bias=False), "attention_bias=False"),
        (changed(model_type="mistral", layer_types=[]), "layer_types"),
    ],
)
def test_refused(values, message):
    with pytest.raises(UserError, match=message):
        config_from_hf(values)
