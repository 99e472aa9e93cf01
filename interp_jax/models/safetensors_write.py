"""Models out: a folder in Hugging Face layout that transformers and we can read.

Tensors are streamed one by one into a folder beside the target, which appears
under its own name only when everything is on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np

from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.families import config_to_hf
from interp_jax.models.safetensors_io import INDEX, SINGLE
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.models.weight_names import hf_names, is_transposed
from interp_jax.runtime.atomic import disk_full_told
from interp_jax.runtime.errors import UserError

_TAGS = {np.dtype(np.float32): "F32", np.dtype(ml_dtypes.bfloat16): "BF16"}


def save_hf(
    directory: str | Path,
    config: ModelConfig,
    params: Mapping[str, jax.Array],
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a model folder, all of it or nothing.

    Args:
        directory: must not exist yet, or be empty.
        params: canonical name -> array, float32 or bfloat16; written as they are.
        tokenizer: writes tokenizer.json, tokenizer_config.json and generation_config.json.
        chat_template: written into tokenizer_config.json.
        max_shard_bytes: weights above it are split into shards with an index.

    Raises:
        UserError: a folder in use, parameters that do not match the config, a
            config its family's config.json cannot express, or a full disk.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(
            found=f"{directory} which is not empty",
            expected="a folder that does not exist yet",
            do="choose another name or remove it",
        )
    _check(config, params)
    described = config_to_hf(config)
    matrix = params["layers.0.q.weight"].dtype
    described["torch_dtype"] = str(matrix)
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    building.mkdir()
    try:
        with disk_full_told(directory):
            if tokenizer is not None:
                ids = tokenizer.special_ids()
                described |= ids
                write_json(building / "generation_config.json", ids)
                (building / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
                settings = tokenizer.settings()
                if chat_template is not None:
                    settings["chat_template"] = chat_template
                write_json(building / "tokenizer_config.json", settings)
            write_json(building / "config.json", described)
            _write_weights(building, config, params, max_shard_bytes)
            if directory.exists():
                directory.rmdir()
            os.rename(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


def write_json(path: Path, value: Any) -> None:
    """Write readable json."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check(config: ModelConfig, params: Mapping[str, jax.Array]) -> None:
    shapes = parameter_shapes(config)
    faults = [f"{name} missing" for name in shapes if name not in params]
    faults += [f"{name} unexpected" for name in params if name not in shapes]
    for name, array in params.items():
        if name in shapes and tuple(array.shape) != shapes[name]:
            faults.append(f"{name} of shape {tuple(array.shape)} instead of {shapes[name]}")
        if np.dtype(array.dtype) not in _TAGS:
            faults.append(f"{name} of dtype {array.dtype}")
    if faults:
        raise UserError(
            found="parameters that do not fit the config: " + ", ".join(faults[:8]),
            expected="every canonical parameter in float32 or bfloat16",
            do="pass the parameters of a network with this config",
        )


def _write_weights(
    folder: Path, config: ModelConfig, params: Mapping[str, jax.Array], max_shard_bytes: int
) -> None:
    names = hf_names(config)
    shards: list[list[str]] = [[]]
    held = total = 0
    for name in names:
        size = params[name].nbytes
        if shards[-1] and held + size > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
        total += size
    if len(shards) == 1:
        files = [SINGLE]
    else:
        files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {names[n]: f for f, group in zip(files, shards, strict=True) for n in group}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for file, group in zip(files, shards, strict=True):
        with open(folder / file, "wb") as stream:
            _write_shard(stream, {name: names[name] for name in group}, params)
            stream.flush()
            os.fsync(stream.fileno())


def _write_shard(stream: BinaryIO, names: dict[str, str], params: Mapping[str, jax.Array]) -> None:
    """The safetensors layout: length of the header, header, tensors back to back."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for ours, theirs in names.items():
        array = params[ours]
        shape = list(array.shape[::-1] if is_transposed(ours) else array.shape)
        header[theirs] = {
            "dtype": _TAGS[np.dtype(array.dtype)],
            "shape": shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for ours in names:
        # Through the host device: asking an accelerator's array for its value would keep a copy.
        host = np.asarray(jax.device_put(params[ours], jax.local_devices(backend="cpu")[0]))
        host = np.ascontiguousarray(host.T if is_transposed(ours) else host)
        stream.write(host.view(np.uint8).data)
