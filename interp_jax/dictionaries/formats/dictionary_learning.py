"""The SAE classes of dictionary_learning: ae.safetensors (or ae.npz) and config.json.

Its ae.pt has to be converted first. Conventions per class, all kept as config or data here:

| class | tensors | input centring | rows | scaled code |
|---|---|---|---|---|
| AutoEncoder | bias, encoder.*, decoder.weight [D, F] | yes | unit norm | f |
| AutoEncoderNew | encoder.*, decoder.weight [D, F], decoder.bias | no | free | f * norm |
| GatedAutoEncoder | + r_mag, gate_bias, mag_bias, decoder_bias | yes | free | f * norm |
| JumpReluAutoEncoder | W_enc [D, F], b_enc, W_dec, b_dec, threshold | by a flag | free | f * norm |
| AutoEncoderTopK | encoder.*, decoder.weight, b_dec, k, threshold | yes | unit norm | f |
| BatchTopKSAE | the same | yes | unit norm | f |
| MatryoshkaBatchTopKSAE | W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes | yes | unit | f |

Its gated and JumpReLU classes return f * norm from `encode`; ours is `activations`.
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

CONFIG = "config.json"
_LINEAR = {
    "encoder": "encoder.weight^T",
    "encoder_bias": "encoder.bias",
    "decoder": "decoder.weight",
}
_MATRIX = {"encoder": "W_enc", "encoder_bias": "b_enc", "decoder": "W_dec", "decoder_bias": "b_dec"}
_COUNTS = {"k": "k", "threshold": "threshold"}
# Class -> our name: their tensor (^T: latent-major there), and the config it means.
_CLASSES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "AutoEncoder": (_LINEAR | {"decoder_bias": "bias"}, {"activation": "relu", "centred": True}),
    "AutoEncoderNew": (
        _LINEAR | {"decoder_bias": "decoder.bias"},
        {"activation": "relu", "code_norm": "sae"},
    ),
    "GatedAutoEncoder": (
        {
            "encoder": "encoder.weight^T",
            "encoder_bias": "gate_bias",
            "decoder": "decoder.weight",
            "decoder_bias": "decoder_bias",
            "magnitude": "r_mag",
            "magnitude_bias": "mag_bias",
        },
        {"activation": "gated", "code_norm": "sae", "centred": True},
    ),
    "JumpReluAutoEncoder": (
        _MATRIX | {"jump_threshold": "threshold"},
        {"activation": "jumprelu", "code_norm": "sae"},
    ),
    "AutoEncoderTopK": (
        _LINEAR | {"decoder_bias": "b_dec"} | _COUNTS,
        {"activation": "topk", "centred": True},
    ),
    "BatchTopKSAE": (
        _LINEAR | {"decoder_bias": "b_dec"} | _COUNTS,
        {"activation": "batch_topk", "centred": True},
    ),
    "MatryoshkaBatchTopKSAE": (
        _MATRIX | _COUNTS,
        {"activation": "batch_topk", "centred": True},
    ),
}
_GROUPS = "group_sizes"


def read_dictionary_learning(
    path: str | Path, dict_class: str | None = None, centred: bool | None = None
) -> Loaded:
    """One file with its config.json beside it, if there.

    Args:
        path: ae.safetensors or ae.npz.
        dict_class: the class; None: as config.json says.
        centred: for JumpReluAutoEncoder, whether the decoder bias is subtracted from the input
            (`apply_b_dec_to_input`); None: it is not, unless config.json says so.

    Raises:
        UserError: an unknown class, other tensors than it has, or a config that disagrees.
    """
    path = Path(path)
    tensors, json = read_tensors(path), {}
    if (path.parent / CONFIG).exists():
        json = {CONFIG: read_json(path.parent / CONFIG)}
        check_names(CONFIG, json[CONFIG], (), ("trainer", "buffer"))
    trainer = json.get(CONFIG, {}).get("trainer", {})
    dict_class = dict_class or trainer.get("dict_class")
    if dict_class not in _CLASSES:
        raise UserError(
            found=f"class {dict_class!r} for {path}",
            expected=f"one of {', '.join(_CLASSES)}",
            do="give dict_class; some classes have the same tensors",
        )
    names, meaning = _CLASSES[dict_class]
    groups = [_GROUPS] if dict_class == "MatryoshkaBatchTopKSAE" else []
    check_names(path.name, tensors, [name.removesuffix("^T") for name in names.values()] + groups)
    arrays = {}
    for ours, theirs in names.items():
        tensor = tensors[theirs.removesuffix("^T")]
        arrays[ours] = jnp.asarray(tensor, jnp.int32) if ours == "k" else float32(tensor)
        if ours == "decoder_bias":
            arrays[ours] = arrays[ours][None]
        if theirs in ("W_enc", "decoder.weight"):  # stored [D, F]
            arrays[ours] = arrays[ours].T
    latents, width = arrays["decoder"].shape
    for name, value in (("activation_dim", width), ("dict_size", latents)):
        check_value(name, trainer.get(name, value), [value])
    settings = dict(meaning)
    if dict_class == "JumpReluAutoEncoder":
        said = trainer.get("apply_b_dec_to_input", False)
        settings["centred"] = bool(said if centred is None else centred)
    if groups:
        settings["prefixes"] = tuple(int(n) for n in np.cumsum(tensors[_GROUPS]))
    config = DictionaryConfig(width=width, latents=latents, **settings)
    return Loaded(Dictionary(config, arrays), json, dtypes_of(tensors))


def class_of(config: DictionaryConfig) -> str | None:
    """The dictionary_learning class that holds such a dictionary, None if none does."""
    single = (config.inputs, config.outs, config.out_width) == (1, 1, config.width)
    if not single or config.skip or config.normaliser or config.gain:
        return None
    if config.prefixes:
        wanted = "MatryoshkaBatchTopKSAE"
        return wanted if config.activation == "batch_topk" and config.centred else None
    for name, (_, meaning) in _CLASSES.items():
        full = {"centred": False, "code_norm": "none"} | meaning
        if name == "JumpReluAutoEncoder":
            full["centred"] = config.centred
        if all(getattr(config, field) == value for field, value in full.items()):
            return name if config.magnitude == "exp" or name != "GatedAutoEncoder" else None
    return None


def write_dictionary_learning(path: str | Path, loaded: Loaded) -> None:
    """Writes one file and config.json beside it.

    Raises:
        UserError: a dictionary that none of the classes can hold.
    """
    c, arrays = loaded.dictionary.config, numpy_arrays(loaded.dictionary)
    name = class_of(c)
    if name is None:
        raise refuse_write(
            "dictionary_learning", f"{c.activation}, {c.code_norm}, centred={c.centred}"
        )
    tensors: Tensors = {}
    for ours, theirs in _CLASSES[name][0].items():
        tensor = arrays[ours][0] if ours == "decoder_bias" else arrays[ours]
        flip = theirs in ("W_enc", "decoder.weight")
        tensors[theirs.removesuffix("^T")] = tensor.T if flip else tensor
    if name == "MatryoshkaBatchTopKSAE":
        tensors[_GROUPS] = np.diff((0, *c.prefixes)).astype(np.int64)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, loaded.dtypes)
    trainer = {"dict_class": name, "activation_dim": c.width, "dict_size": c.latents}
    if name == "JumpReluAutoEncoder":
        trainer["apply_b_dec_to_input"] = c.centred
    write_json(path.parent / CONFIG, loaded.json.get(CONFIG) or {"trainer": trainer})
