"""The open-source crosscoder of Kissane et al.: cc_weights.safetensors (converted), cfg.json.

W_enc [M, D, F], W_dec [F, M, D], b_enc [F], b_dec [M, D]; L1, with decoder-norm weighted cost.
Each model's activations must be multiplied by sqrt(D) / (mean norm) first; the factors are not in
the file. Its site `resid_pre 14` is our `resid_post[13]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

WEIGHTS, CONFIG = "cc_weights.safetensors", "cfg.json"
# Settings of the training run; none changes what the weights compute.
_FIELDS = (
    "seed batch_size buffer_mult lr num_tokens l1_coeff beta1 beta2 d_in dict_size seq_len "
    "enc_dtype remove_rare_dead_neurons model_name site layer device model_batch_size log_every "
    "save_every dec_init_norm hook_point wandb_project wandb_entity"
).split()


def read_kissane(folder: str | Path, scales: Sequence[float] | None) -> Loaded:
    """One folder.

    Args:
        folder: holds the weights and cfg.json.
        scales: one factor per model that its activations are multiplied by before encoding, and
            reconstructions divided by; None: the caller scales activations beforehand.

    Raises:
        UserError: other tensors or fields, or scales that are not one per model.
    """
    folder = Path(folder)
    tensors, fields = read_tensors(folder / WEIGHTS), read_json(folder / CONFIG)
    check_names(WEIGHTS, tensors, {"W_enc", "W_dec", "b_enc", "b_dec"})
    check_names(CONFIG, fields, (), _FIELDS)
    models, width, latents = tensors["W_enc"].shape
    check_value("d_in", fields.get("d_in", width), [width])
    check_value("dict_size", fields.get("dict_size", latents), [latents])
    if scales is not None and len(scales) != models:
        raise UserError(
            found=f"{len(scales)} scales", expected=f"{models}, one per model", do="give them"
        )
    config = DictionaryConfig(
        inputs=models,
        width=width,
        latents=latents,
        activation="relu",
        code_norm="crosscoder",
        normaliser=scales is not None,
    )
    arrays = {
        "encoder": float32(tensors["W_enc"]).transpose(2, 0, 1).reshape(latents, -1),
        "encoder_bias": float32(tensors["b_enc"]),
        "decoder": float32(tensors["W_dec"]).reshape(latents, -1),
        "decoder_bias": float32(tensors["b_dec"]),
    }
    if scales is not None:
        factor = jnp.broadcast_to(jnp.asarray(scales, jnp.float32)[:, None], (models, width))
        zero = jnp.zeros((models, width))
        arrays |= dict(shift_in=zero, shift_out=zero, scale_in=factor, scale_out=factor)
    return Loaded(Dictionary(config, arrays), {CONFIG: fields}, dtypes_of(tensors))


def write_kissane(folder: str | Path, loaded: Loaded) -> None:
    """Writes one folder. The scales of a normaliser stay outside, as in the layout.

    Raises:
        UserError: a dictionary that the layout cannot hold.
    """
    c, arrays = loaded.dictionary.config, numpy_arrays(loaded.dictionary)
    alike = c.read_inputs == tuple(range(c.outs)) and c.out_width == c.width
    if c.activation != "relu" or c.code_norm != "crosscoder" or not alike or c.centred or c.skip:
        raise refuse_write("Kissane", f"{c.activation}, {c.code_norm}, or unlike in- and outputs")
    if c.normaliser and (np.any(arrays["shift_in"]) or np.any(arrays["shift_out"])):
        raise refuse_write("Kissane", "a normaliser that shifts")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "W_enc": arrays["encoder"].reshape(c.latents, c.inputs, c.width).transpose(1, 2, 0),
        "W_dec": arrays["decoder"].reshape(c.latents, c.outs, c.width),
        "b_enc": arrays["encoder_bias"],
        "b_dec": arrays["decoder_bias"],
    }
    write_tensors(folder / WEIGHTS, tensors, loaded.dtypes)
    fields = loaded.json.get(CONFIG, {"d_in": c.width, "dict_size": c.latents})
    write_json(folder / CONFIG, fields)
