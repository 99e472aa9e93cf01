"""Gemma Scope: JumpReLU dictionaries as params.npz, and the safetensors of the second release.

W_enc [D, F], b_enc, W_dec [F, D], b_dec, threshold [F]; the second release writes them in lower
case and its transcoders add `affine_skip_connection` [D, D] (row vector times matrix). No input
centring, no normalisation, rows of any norm. Trained without the beginning-of-sequence token.
`layer_N` of the residual dictionaries is the stream after block N, our `resid_post[N]`.
"""

from __future__ import annotations

from pathlib import Path

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

_FIRST = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_SKIP = "affine_skip_connection"


def read_gemma_scope(path: str | Path) -> Loaded:
    """One params.npz, or one safetensors file of the second release.

    Raises:
        UserError: other tensors than the layout has.
    """
    tensors = read_tensors(path)
    second = "w_enc" in tensors
    names = [name.lower() for name in _FIRST] if second else list(_FIRST)
    check_names(Path(path).name, tensors, names, {_SKIP} if second else ())
    encoder, bias, decoder, decoder_bias, threshold = (float32(tensors[n]) for n in names)
    skip = second and _SKIP in tensors
    config = DictionaryConfig(
        width=encoder.shape[0],
        width_out=decoder.shape[1],
        latents=encoder.shape[1],
        activation="jumprelu",
        skip=skip,
    )
    arrays = {
        "encoder": encoder.T,
        "encoder_bias": bias,
        "decoder": decoder,
        "decoder_bias": decoder_bias[None],
        "jump_threshold": threshold,
    }
    if skip:
        arrays["skip"] = float32(tensors[_SKIP])
    return Loaded(Dictionary(config, arrays), dtypes=dtypes_of(tensors))


def write_gemma_scope(path: str | Path, loaded: Loaded) -> None:
    """npz (first release) or safetensors (second), by the suffix of `path`.

    Raises:
        UserError: a dictionary that the layout cannot hold.
    """
    c, arrays = loaded.dictionary.config, numpy_arrays(loaded.dictionary)
    second = Path(path).suffix != ".npz"
    if c.activation != "jumprelu" or c.inputs * c.outs > 1 or c.centred or c.normaliser:
        raise refuse_write("Gemma Scope", f"{c.activation}, {c.inputs} inputs or input centring")
    if c.skip and not second:
        raise refuse_write("Gemma Scope npz", "a skip path")
    values = (
        arrays["encoder"].T,
        arrays["encoder_bias"],
        arrays["decoder"],
        arrays["decoder_bias"][0],
        arrays["jump_threshold"],
    )
    names = [name.lower() for name in _FIRST] if second else _FIRST
    tensors = dict(zip(names, values, strict=True))
    if c.skip:
        tensors[_SKIP] = arrays["skip"]
    write_tensors(path, tensors, loaded.dtypes)
