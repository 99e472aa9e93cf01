"""SAELens: sae_weights.safetensors and cfg.json, of version 6 and before.

W_enc [D, F], b_enc, W_dec [F, D], b_dec; `threshold` (JumpReLU), b_gate, r_mag, b_mag (gated),
W_skip [D_out, D] (skip transcoders). Batch-TopK and Matryoshka dictionaries are published as
JumpReLU. `apply_b_dec_to_input` is our `centred`. Under `rescale_acts_by_decoder_norm` TopK ranks
f * norm, our code norm `sae`, and its own codes are our `activations`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.files import (
    Loaded,
    check_names,
    check_value,
    dtypes_of,
    float32,
    numpy_arrays,
    read_json,
    read_tensors,
    refuse_write,
    write_json,
    write_tensors,
)
from interp_jax.runtime.errors import UserError

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
# What SAELens calls an architecture: our activation, and whether it is a transcoder, has a skip.
_ARCHITECTURES = {
    "standard": ("relu", False, False),
    "gated": ("gated", False, False),
    "jumprelu": ("jumprelu", False, False),
    "topk": ("topk", False, False),
    "transcoder": ("relu", True, False),
    "skip_transcoder": ("relu", True, True),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
}
_FOLLOWED = (
    "architecture d_in d_sae d_out k dtype apply_b_dec_to_input normalize_activations "
    "rescale_acts_by_decoder_norm activation_fn activation_fn_str activation_fn_kwargs "
    "finetuning_scaling_factor reshape_activations"
).split()
# Where it came from: nothing that changes what the weights compute.
_DESCRIBING = (
    "device metadata meta model_name model_class_name hook_name hook_point hook_layer "
    "hook_point_layer hook_head_index hook_point_head_index hook_name_out hook_layer_out "
    "hook_head_index_out prepend_bos exclude_special_tokens dataset_path "
    "dataset_trust_remote_code context_size neuronpedia neuronpedia_id sae_lens_version "
    "sae_lens_training_version model_from_pretrained_kwargs seqpos_slice"
).split()


def read_saelens(folder: str | Path, norm_scale: float | None = None) -> Loaded:
    """One folder.

    Args:
        folder: holds both files.
        norm_scale: the factor of inputs under `normalize_activations =
            expected_average_only_in`, which is not in the files.

    Raises:
        UserError: unknown fields or tensors (named), a setting that is not followed here, such as
            a normalisation per token, or a normalisation without its factor.
    """
    folder = Path(folder)
    tensors, fields = read_tensors(folder / WEIGHTS), read_json(folder / CONFIG)
    check_names(CONFIG, fields, ("d_in", "d_sae"), (*_FOLLOWED, *_DESCRIBING))
    architecture = fields.get("architecture", "standard")
    function = fields.get("activation_fn", fields.get("activation_fn_str", "relu"))
    check_value("activation_fn", function, ["relu", "topk"])
    if function == "topk" and architecture == "standard":
        architecture = "topk"  # written so before version 6
    check_value("architecture", architecture, _ARCHITECTURES)
    check_value(
        "finetuning_scaling_factor", fields.get("finetuning_scaling_factor", False), [False]
    )
    scaled = fields.get("normalize_activations", "none")
    check_value("normalize_activations", scaled, ["none", "expected_average_only_in", False])
    if (scaled == "expected_average_only_in") != (norm_scale is not None):
        raise UserError(
            found=f"normalize_activations = {scaled!r} and norm_scale = {norm_scale}",
            expected="a norm_scale exactly for expected_average_only_in",
            do="give sqrt(d_in) / (mean norm of activations), or leave it out",
        )
    activation, transcoder, skip = _ARCHITECTURES[architecture]
    rescaled = bool(fields.get("rescale_acts_by_decoder_norm", False))
    if rescaled and activation != "topk":
        check_value("rescale_acts_by_decoder_norm", rescaled, [False])
    config = DictionaryConfig(
        width=fields["d_in"],
        latents=fields["d_sae"],
        width_out=fields["d_out"] if transcoder else None,
        activation=activation,
        code_norm="sae" if rescaled else "none",
        centred=not transcoder and bool(fields.get("apply_b_dec_to_input", True)),
        skip=skip,
        normaliser=norm_scale is not None,
    )
    names = _names(config)
    check_names(WEIGHTS, tensors, names.values())
    arrays = {ours: float32(tensors[theirs]) for ours, theirs in names.items()}
    arrays["encoder"] = arrays["encoder"].T
    arrays["decoder_bias"] = arrays["decoder_bias"][None]
    if skip:
        arrays["skip"] = arrays["skip"].T
    if activation == "topk":
        k = fields.get("k", (fields.get("activation_fn_kwargs") or {}).get("k"))
        if k is None:
            raise UserError(found=f"{CONFIG} of a topk without k", expected="k", do="add it")
        arrays["k"] = jnp.asarray(k, jnp.int32)
    if norm_scale is not None:
        into, out = (1, config.width), (1, config.out_width)
        # A transcoder's output is not scaled back: its site is another one.
        back = 1.0 if transcoder else norm_scale
        arrays |= {
            "shift_in": jnp.zeros(into),
            "scale_in": jnp.full(into, norm_scale, jnp.float32),
            "shift_out": jnp.zeros(out),
            "scale_out": jnp.full(out, back, jnp.float32),
        }
    return Loaded(Dictionary(config, arrays), {CONFIG: fields}, dtypes_of(tensors))


def _names(config: DictionaryConfig) -> dict[str, str]:
    names = {"encoder": "W_enc", "decoder": "W_dec", "decoder_bias": "b_dec"}
    if config.activation == "gated":
        names |= {"encoder_bias": "b_gate", "magnitude": "r_mag", "magnitude_bias": "b_mag"}
    else:
        names["encoder_bias"] = "b_enc"
    if config.activation == "jumprelu":
        names["jump_threshold"] = "threshold"
    if config.skip:
        names["skip"] = "W_skip"
    return names


def write_saelens(folder: str | Path, loaded: Loaded) -> None:
    """Writes one folder, in the layout of version 6.

    A BatchTopK dictionary is written as SAELens publishes its own, as JumpReLU: the threshold of
    scaled codes divided by each latent's scale.

    Raises:
        UserError: a dictionary that the layout cannot hold.
    """
    d = loaded.dictionary
    c, arrays = d.config, numpy_arrays(d)
    if c.inputs * c.outs > 1 or c.gain or c.magnitude != "exp" and c.activation == "gated":
        raise refuse_write("SAELens", "several inputs, gain, or a softplus magnitude")
    if c.activation == "batch_topk":
        c, arrays = _as_jumprelu(d, arrays)
    transcoder = c.skip or c.out_width != c.width
    transcoder |= "transcoder" in str(loaded.json.get(CONFIG, {}).get("architecture"))
    if transcoder and c.centred:
        raise refuse_write("SAELens", "a transcoder that is centred")
    kinds = {meaning: name for name, meaning in _ARCHITECTURES.items()}
    architecture = kinds.get((c.activation, transcoder, c.skip))
    ranked = c.code_norm == "sae" and c.activation == "topk"
    if architecture is None or (c.activation == "topk" and c.code_norm not in ("none", "sae")):
        raise refuse_write("SAELens", f"{c.activation}, {c.code_norm}, skip={c.skip}")
    if c.normaliser and CONFIG not in loaded.json:
        raise refuse_write("SAELens", "a normaliser: its factor has no place in the files")
    tensors = {theirs: arrays[ours] for ours, theirs in _names(c).items()}
    tensors["W_enc"], tensors["b_dec"] = arrays["encoder"].T, arrays["decoder_bias"][0]
    if c.skip:
        tensors["W_skip"] = arrays["skip"].T
    fields: dict[str, Any] = loaded.json.get(CONFIG) or {
        "architecture": architecture,
        "d_in": c.width,
        "d_sae": c.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": c.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0"},
    } | ({"d_out": c.out_width} if transcoder else {}) | (
        {"k": int(arrays["k"]), "rescale_acts_by_decoder_norm": ranked}
        if c.activation == "topk"
        else {}
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, tensors, loaded.dtypes)
    write_json(folder / CONFIG, fields)


def _as_jumprelu(d: Dictionary, arrays):
    import dataclasses

    if d.config.decoupled:
        raise refuse_write("SAELens", "a decoupled code")
    scale = np.asarray(d.scale())
    level = np.where(scale > 0, arrays["threshold"] / np.where(scale > 0, scale, 1), np.inf)
    config = dataclasses.replace(d.config, activation="jumprelu", code_norm="none", prefixes=())
    return config, arrays | {"jump_threshold": level.astype(np.float32)}
