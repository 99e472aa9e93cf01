"""Folders written by transformers are read by us with equal values, and the reverse."""

import json

import numpy as np
import pytest

from interp_jax.models.config import parameter_shapes
from interp_jax.models.families import config_from_hf
from interp_jax.models.hf_fields import ARCHITECTURES, MODEL_TYPES
from interp_jax.models.pretrained import load_parameters
from interp_jax.models.safetensors_io import read_hf
from interp_jax.models.safetensors_write import save_hf
from interp_jax.models.weight_names import hf_names, is_transposed
from interp_jax.testing.tiny import FAMILIES, random_parameters, tiny_config, tiny_hf_config

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def config_class(family):
    model_type = {ours: theirs for theirs, ours in MODEL_TYPES.items()}[family]
    return transformers.AutoConfig.for_model, model_type


def their_model(family):
    make, model_type = config_class(family)
    config = make(model_type, **tiny_hf_config(family))
    torch.manual_seed(0)
    model = getattr(transformers, ARCHITECTURES[family])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
    return model


def assert_equal(config, params, state):
    for name, theirs in hf_names(config).items():
        array = np.asarray(params[name])
        array = array.T if is_transposed(name) else array
        np.testing.assert_array_equal(array, state[theirs].numpy(), err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_theirs_read_by_us(family, tmp_path):
    model = their_model(family)
    model.save_pretrained(tmp_path)
    config, params = read_hf(tmp_path)
    assert config == tiny_config(family)
    assert {name: x.shape for name, x in params.items()} == parameter_shapes(config)
    assert_equal(config, params, model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_read_by_them(family, tmp_path):
    config = tiny_config(family)
    params = random_parameters(config)
    save_hf(tmp_path / "m", config, params)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(model).__name__ == ARCHITECTURES[family]
    assert_equal(config, params, model.state_dict())
    # What they make of our config.json is what they make of their own arguments.
    theirs = config_class(family)[0](config_class(family)[1], **tiny_hf_config(family)).to_dict()
    ours = model.config.to_dict()
    for key in ("rope_parameters", "layer_types", "sliding_window", "attn_logit_softcapping"):
        assert ours.get(key) == theirs.get(key), key
    assert config_from_hf(ours) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_the_classes_own(family):
    """A config.json with nothing but the required sizes means what the class makes of it."""
    make, model_type = config_class(family)
    whole = make(model_type)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    short = {key: getattr(whole, key) for key in (*sizes, "intermediate_size")}
    full = json.loads(whole.to_json_string(use_diff=False))
    assert config_from_hf({"model_type": model_type, **short}) == config_from_hf(full)


def test_sharded_bfloat16_by_them(tmp_path):
    model = their_model("gemma3").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    config, params = read_hf(tmp_path)
    assert_equal(config, params, {k: v.float() for k, v in model.state_dict().items()})


def test_chat_ids_are_theirs(tmp_path):
    """Our saved tokenizer, loaded by transformers, gives the ids that we give."""
    loaded = load_parameters()
    config = tiny_config("llama", vocab_size=49152, width=8)
    template = loaded.chat_template
    folder = save_hf(
        tmp_path / "m", config, random_parameters(config), loaded.tokenizer, template.source
    )
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [
        {"role": "system", "content": "  Be\n\nbrief. "},
        {"role": "user", "content": "\n12 naïve 😀 cafés?  "},
        {"role": "assistant", "content": " Yes"},
    ]
    for options in (
        {},
        {"add_generation_prompt": True},
        {"continue_final_message": True},
    ):
        ids = theirs.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
        assert template.encode(loaded.tokenizer, chat, **options).ids.tolist() == ids
        text = theirs.apply_chat_template(chat, tokenize=False, **options)
        assert template.render(chat, **options).text == text
    for text in ("<|im_start|>x\n  12", "e\u0301 – “q” 你好", "\tdef f():\r\n  pass"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert loaded.tokenizer.encode(text, allow_special=True).ids.tolist() == ids
