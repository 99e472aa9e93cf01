"""Crosscoder releases: model.safetensors and config.json as the paper's library writes them.

`encoder.weight` [E, D, F], `encoder.bias` [F], `decoder.weight` [O, F, D], `decoder.bias` [O, D],
`code_normalization_id`; for BatchTopK also `k` and `threshold`; in newer files `target_rms`,
`activation_mean`, `activation_std` [M, D] and `activation_global_scale` [M], NaN meaning off. Old
files have keys behind `_orig_mod.`, no id (it is 1 then), or a bias per model (their sum counts).

Two differences from the reference, both in its normaliser: it divides by scale + 1e-8 on the way
back, and applies it twice to decoupled codes; here it is the exact inverse, once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.build import normaliser
from interp_jax.dictionaries.config import CODE_NORM_IDS, DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.files import (
    Loaded,
    Tensors,
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

WEIGHTS, CONFIG, TRAINER = "model.safetensors", "config.json", "trainer_config.json"
_PREFIX = "_orig_mod."
_NEEDED = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NORMALISER = ("target_rms", "activation_mean", "activation_std", "activation_global_scale")
_OPTIONAL = ("code_normalization_id", "k", "threshold", *_NORMALISER)
# Old and new names of the same setting, then how the run started, then what the tensors say.
_FIELDS = (
    "activation_dim dict_size num_layers num_encoder_layers encoder_layers encoder_layers_indices "
    "num_decoder_layers num_decoder_output_layers code_normalization "
    "code_normalization_alpha_sae code_normalization_alpha_cc decoder_type latent_processor "
    "keep_relative_variance same_init_for_all_layers norm_init_scale init_with_transpose "
    "activation_mean activation_std target_rms k dict_class use_sparse_decoder"
).split()


def read_crosscoder(path: str | Path) -> Loaded:
    """One folder, or one safetensors file.

    Raises:
        UserError: unknown tensors or fields (named), or settings that disagree with the tensors.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    raw = read_tensors(path / WEIGHTS if path.is_dir() else path)
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in raw.items()}
    check_names(path.name, tensors, _NEEDED, _OPTIONAL)
    json = {n: read_json(folder / n) for n in (CONFIG, TRAINER) if (folder / n).exists()}
    fields = json.get(CONFIG, {})
    check_names(CONFIG, fields, (), _FIELDS)
    check_value("latent_processor", fields.get("latent_processor"), [None])
    check_value("decoder_type", fields.get("decoder_type", "linear"), ["linear"])
    config = _config(tensors, fields)
    arrays = {
        "encoder": float32(tensors["encoder.weight"])
        .transpose(2, 0, 1)
        .reshape(config.latents, -1),
        "decoder": float32(tensors["decoder.weight"])
        .transpose(1, 0, 2)
        .reshape(config.latents, -1),
        "decoder_bias": float32(tensors["decoder.bias"]),
    }
    bias = float32(tensors["encoder.bias"])
    arrays["encoder_bias"] = bias.sum(0) if bias.ndim == 2 else bias
    if "k" in tensors:
        arrays["k"] = jnp.asarray(tensors["k"], jnp.int32)
        arrays["threshold"] = float32(tensors["threshold"])
    if config.normaliser:
        arrays |= _statistics(tensors, fields)
    extra = {name: tensors[name] for name in _NORMALISER if name in tensors}
    return Loaded(Dictionary(config, arrays), json, dtypes_of(tensors), extra)


def _statistics(tensors: Tensors, fields: dict[str, Any]):
    mean, std = (float32(tensors[f"activation_{name}"]) for name in ("mean", "std"))
    if not fields.get("keep_relative_variance", True):
        into = normaliser(mean, std, None)
    else:
        scale = float32(tensors["activation_global_scale"])[:, None]
        into = {"shift_in": mean, "scale_in": jnp.broadcast_to(scale, mean.shape)}
    return into | {name.replace("_in", "_out"): value for name, value in into.items()}


def _config(tensors: Tensors, fields: dict[str, Any]) -> DictionaryConfig:
    read, width, latents = tensors["encoder.weight"].shape
    outs = tensors["decoder.weight"].shape[0]
    subset = fields.get("encoder_layers", fields.get("encoder_layers_indices"))
    inputs = fields.get("num_layers", fields.get("num_encoder_layers"))
    if inputs is None:
        inputs = read if subset is None else max(*subset, outs - 1) + 1
    said = {
        "activation_dim": width,
        "dict_size": latents,
        "num_decoder_layers": outs,
        "num_decoder_output_layers": outs,
    }
    for name, value in said.items():
        check_value(name, value if fields.get(name) is None else fields[name], [value])
    if read != (inputs if subset is None else len(subset)):
        raise UserError(
            found=f"encoder weights for {read} inputs",
            expected=f"{inputs if subset is None else subset}, as {CONFIG} says",
            do="check that weights and config belong together",
        )
    batch = "k" in tensors
    if batch != ("threshold" in tensors):
        check_names("the weights", tensors, ("k", "threshold"), tensors)
    by_id = {number: name for name, number in CODE_NORM_IDS.items()}
    number = int(tensors.get("code_normalization_id", np.asarray(1)))
    check_value("code_normalization_id", number, by_id)
    named = fields.get("code_normalization")
    if named is not None and "code_normalization_id" in tensors:
        check_value("code_normalization", str(named).split(".")[-1].lower(), [by_id[number]])
    elif named is not None:
        number = CODE_NORM_IDS.get(str(named).split(".")[-1].lower(), number)  # type: ignore[call-overload]
    statistics = [tensors[n] for n in ("activation_mean", "activation_std") if n in tensors]
    on = bool(statistics) and not any(np.isnan(s.astype(np.float32)).any() for s in statistics)
    alphas = {
        ours: fields[theirs]
        for ours, theirs in (
            ("mixed_sae", "code_normalization_alpha_sae"),
            ("mixed_crosscoder", "code_normalization_alpha_cc"),
        )
        if fields.get(theirs) is not None
    }
    return DictionaryConfig(
        inputs=inputs,
        width=width,
        latents=latents,
        outputs=None if outs == inputs else outs,
        encoder_inputs=None if subset is None else tuple(subset),
        activation="batch_topk" if batch else "relu",
        code_norm=by_id[number],
        normaliser=on,
        **alphas,
    )


def write_crosscoder(folder: str | Path, loaded: Loaded) -> None:
    """Writes one folder, with today's key names.

    Raises:
        UserError: a dictionary that the layout cannot hold, or a normaliser whose statistics are
            not given in `loaded.extra`.
    """
    c, arrays = loaded.dictionary.config, numpy_arrays(loaded.dictionary)
    if c.activation not in ("relu", "batch_topk") or c.centred or c.skip or c.prefixes or c.gain:
        raise refuse_write("crosscoder", f"{c.activation}, centring, skip, prefixes or gain")
    if c.out_width != c.width:
        raise refuse_write("crosscoder", "an output of another width")
    read = len(c.read_inputs)
    tensors = {
        "encoder.weight": arrays["encoder"].reshape(c.latents, read, c.width).transpose(1, 2, 0),
        "encoder.bias": arrays["encoder_bias"],
        "decoder.weight": arrays["decoder"].reshape(c.latents, c.outs, c.width).transpose(1, 0, 2),
        "decoder.bias": arrays["decoder_bias"],
        "code_normalization_id": np.asarray(CODE_NORM_IDS[c.code_norm], np.int64),
    } | {name: np.asarray(loaded.extra[name]) for name in _NORMALISER if name in loaded.extra}
    if c.activation == "batch_topk":
        tensors |= {"k": arrays["k"], "threshold": arrays["threshold"]}
    fields = loaded.json.get(CONFIG) or _fields(c, arrays)
    if c.normaliser:
        check_names("loaded.extra", loaded.extra, _NORMALISER, loaded.extra)
        for name, value in _statistics(tensors, fields).items():
            if not np.array_equal(np.asarray(value), arrays[name]):
                raise refuse_write("crosscoder", f"a {name} that the statistics do not give")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtypes = {name: dtype for name, dtype in loaded.dtypes.items() if name in tensors}
    write_tensors(folder / WEIGHTS, tensors, dtypes)
    write_json(folder / CONFIG, fields)
    if TRAINER in loaded.json:
        write_json(folder / TRAINER, loaded.json[TRAINER])


def _fields(c: DictionaryConfig, arrays: Tensors) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "activation_dim": c.width,
        "dict_size": c.latents,
        "num_layers": c.inputs,
        "num_decoder_layers": c.outs,
        "encoder_layers": None if c.encoder_inputs is None else list(c.encoder_inputs),
        "code_normalization": c.code_norm.upper(),
        "code_normalization_alpha_sae": c.mixed_sae,
        "code_normalization_alpha_cc": c.mixed_crosscoder,
        "dict_class": "BatchTopKCrossCoder" if c.activation == "batch_topk" else "CrossCoder",
    }
    if c.activation == "batch_topk":
        fields["k"] = int(arrays["k"])
    return fields
