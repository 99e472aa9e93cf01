"""saex: gated or ReLU dictionaries, W_enc [D, F], b_enc, W_dec [F, D], b_dec and more.

`scaling_factor` [F] multiplies the code (our `gain`). A gated one has `s_gate` and `b_gate`:
1[z + b_enc > 0] * relu(z softplus(s_gate) scaling_factor + b_gate). `mean_norm` and
`tgt_mean_norm` scale the input by sqrt(D) / mean_norm and the output back by the target's. Rows
are not unit norm. What the file does not say (whether the decoder bias is subtracted first,
whether the encoder's bias counts) is the caller's to say.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.files import (
    Loaded,
    check_names,
    dtypes_of,
    float32,
    numpy_arrays,
    read_tensors,
    refuse_write,
    write_tensors,
)
from interp_jax.runtime.errors import UserError

_NEEDED = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATE = ("s_gate", "b_gate")
_NORMS = ("mean_norm", "tgt_mean_norm")


def read_saex(path: str | Path, gated: bool | None = None, centred: bool = False) -> Loaded:
    """One saex file.

    Args:
        path: safetensors.
        gated: None: as the presence of `s_gate` says.
        centred: the decoder bias is subtracted from the input (`remove_decoder_bias`).

    Raises:
        UserError: other tensors, or a gate of zeros (written by ungated runs too) and no `gated`.
    """
    tensors = read_tensors(path)
    check_names(Path(path).name, tensors, _NEEDED, (*_GATE, *_NORMS, "scaling_factor"))
    if gated is None:
        gated = "s_gate" in tensors
        if gated and not any(np.any(np.asarray(tensors[n], np.float32)) for n in _GATE):
            raise UserError(
                found=f"{Path(path).name} with a gate of zeros, which ungated runs write as well",
                expected="to be told which it is",
                do="give gated=True or gated=False",
            )
    width, latents = tensors["W_enc"].shape
    config = DictionaryConfig(
        width=width,
        latents=latents,
        activation="gated" if gated else "relu",
        magnitude="softplus",
        code_norm="sae",
        centred=centred,
        normaliser="mean_norm" in tensors,
        gain="scaling_factor" in tensors,
    )
    arrays = {
        "encoder": float32(tensors["W_enc"]).T,
        "encoder_bias": float32(tensors["b_enc"]),
        "decoder": float32(tensors["W_dec"]),
        "decoder_bias": float32(tensors["b_dec"])[None],
    }
    if config.gain:
        arrays["gain"] = float32(tensors["scaling_factor"])
    kept = {name: tensors[name] for name in _NORMS if name in tensors}
    if gated:
        check_names(Path(path).name, tensors, _GATE, tensors)
        arrays["magnitude"] = float32(tensors["s_gate"])
        arrays["magnitude_bias"] = float32(tensors["b_gate"])
    else:
        kept |= {name: tensors[name] for name in _GATE if name in tensors}
    if config.normaliser:
        arrays |= _statistics(tensors, width)
    return Loaded(Dictionary(config, arrays), dtypes=dtypes_of(tensors), extra=kept)


def _statistics(tensors, width: int):
    into = width**0.5 / np.asarray(tensors["mean_norm"], np.float32)
    out = into
    if "tgt_mean_norm" in tensors:
        out = width**0.5 / np.asarray(tensors["tgt_mean_norm"], np.float32)
    zero = jnp.zeros((1, width))
    return {
        "shift_in": zero,
        "scale_in": jnp.full((1, width), float(into), jnp.float32),
        "shift_out": zero,
        "scale_out": jnp.full((1, width), float(out), jnp.float32),
    }


def write_saex(path: str | Path, loaded: Loaded) -> None:
    """Writes one file; the norms of a normaliser are taken from what was read.

    Raises:
        UserError: a dictionary that the layout cannot hold, or norms that no longer agree.
    """
    c, arrays = loaded.dictionary.config, numpy_arrays(loaded.dictionary)
    single = (c.inputs, c.outs, c.out_width) == (1, 1, c.width)
    if c.activation not in ("gated", "relu") or not single or c.skip:
        raise refuse_write("saex", f"{c.activation}, several inputs, or a skip path")
    if c.activation == "gated" and c.magnitude != "softplus":
        raise refuse_write("saex", "a magnitude that is not a softplus")
    tensors = {
        "W_enc": arrays["encoder"].T,
        "b_enc": arrays["encoder_bias"],
        "W_dec": arrays["decoder"],
        "b_dec": arrays["decoder_bias"][0],
    } | {name: np.asarray(tensor) for name, tensor in loaded.extra.items()}
    if c.gain:
        tensors["scaling_factor"] = arrays["gain"]
    if c.activation == "gated":
        tensors |= {"s_gate": arrays["magnitude"], "b_gate": arrays["magnitude_bias"]}
    if c.normaliser:
        same = "mean_norm" in tensors and all(
            np.array_equal(np.asarray(value), arrays[name])
            for name, value in _statistics(tensors, c.width).items()
        )
        if not same:
            raise refuse_write("saex", "a normaliser that the extra mean_norm does not give")
    write_tensors(path, tensors, loaded.dtypes)
