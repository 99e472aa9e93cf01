"""Hugging Face folders in: `config.json` and safetensors, whole or sharded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from interp_jax.models.config import ModelConfig
from interp_jax.models.families import config_from_hf
from interp_jax.models.placing import (
    CHUNK,
    Index,
    ShardingFor,
    check_sources,
    place_parameters,
    spans,
)
from interp_jax.models.weight_names import HF_BUFFERS, hf_names, is_transposed
from interp_jax.runtime.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_READABLE = {"F32", "F16", "BF16", "F64"}


def read_json(path: Path) -> Any:
    """A json file, or a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = f"no file {path.name} in {path.parent}"
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        found = f"{path} which is no json ({error})"
    raise UserError(found=found, expected="a json file", do="fetch the model again")


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model folder, in a fixed order.

    Raises:
        UserError: none, or a shard of the index is not there.
    """
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    if (directory / INDEX).exists():
        names = sorted(set(read_json(directory / INDEX)["weight_map"].values()))
        if absent := [name for name in names if not (directory / name).exists()]:
            raise UserError(
                found=f"{len(absent)} of {len(names)} shards missing in {directory}: "
                + ", ".join(absent[:8]),
                expected=f"every file that {INDEX} names",
                do="fetch the model again",
            )
        return [directory / name for name in names]
    raise UserError(
        found=f"neither {SINGLE} nor {INDEX} in {directory}",
        expected="weights in the safetensors format",
        do="convert the weights to safetensors, or name another model",
    )


@dataclasses.dataclass
class _Source:
    """A tensor of an open safetensors file. `tensor` is its slice handle."""

    tensor: Any
    shape: tuple[int, ...]
    label: str
    transposed: bool

    def read(self, index: Index, dtype: np.dtype) -> np.ndarray:
        bounds = spans(index, self.shape)
        out = np.empty([stop - start for start, stop in bounds], dtype)
        if not out.size:
            return out
        if len(bounds) == 1:
            out[:] = self.tensor[bounds[0][0] : bounds[0][1]].astype(dtype)
            return out
        rows, columns = bounds[::-1] if self.transposed else bounds
        target = out.T if self.transposed else out
        step = max(1, CHUNK // max(1, columns[1] - columns[0]))
        for start in range(rows[0], rows[1], step):
            stop = min(start + step, rows[1])
            chunk = self.tensor[start:stop, columns[0] : columns[1]]
            target[start - rows[0] : stop - rows[0]] = chunk.astype(dtype)
        return out


def _handles(files: list[Path]) -> Iterator[tuple[Path, Any, str]]:
    for file in files:
        try:
            handle = safe_open(file, framework="np")
        except (SafetensorError, OSError) as error:
            raise UserError(
                found=f"{file} which is truncated or corrupt ({error})",
                expected="a complete safetensors file",
                do="fetch it again",
            ) from None
        for name in handle.keys():  # noqa: SIM118 (the handle is no mapping)
            yield file, handle, name


def read_hf(
    directory: str | Path,
    dtype: str = "float32",
    sharding_for: ShardingFor | None = None,
) -> tuple[ModelConfig, dict[str, jax.Array]]:
    """The config and the canonical parameters of a Hugging Face model folder.

    Args:
        directory: holds config.json and model.safetensors, or its shards and index.
        dtype: `float32` or `bfloat16`; norm gains are float32 in both.
        sharding_for: where each parameter shall live (see `place_parameters`).

    Raises:
        UserError: an unknown config field, or tensors that are missing,
            unexpected, misshapen, truncated or of a type not read here.
    """
    directory = Path(directory)
    config = config_from_hf(read_json(directory / "config.json"))
    names = hf_names(config)
    canonical = {theirs: ours for ours, theirs in names.items()}
    sources: dict[str, _Source] = {}
    unexpected, odd, tied = [], [], None
    for file, handle, name in _handles(weight_files(directory)):
        tensor = handle.get_slice(name)
        if name not in canonical:
            if config.tied_head and name == "lm_head.weight":
                tied = tensor
            elif not HF_BUFFERS.fullmatch(name):
                unexpected.append(name)
            continue
        if tensor.get_dtype() not in _READABLE:
            odd.append(f"{name} {tensor.get_dtype()}")
        ours = canonical[name]
        shape, flip = tuple(tensor.get_shape()), is_transposed(ours)
        source = _Source(tensor, shape[::-1] if flip else shape, f"{file.name}:{name}", flip)
        sources[ours] = source
    if odd:
        raise UserError(
            found=f"in {directory} tensors of another type: {', '.join(odd[:8])}",
            expected="one of " + ", ".join(sorted(_READABLE)),
            do="use weights that are not quantised",
        )
    check_sources(str(directory), config, sources, unexpected, names)
    if tied is not None:
        _check_tied(directory, tied, sources["embed.table"])
    return config, place_parameters(sources, config, dtype, sharding_for)


def _check_tied(directory: Path, head: Any, embed: _Source) -> None:
    """A stored copy of a tied head must be the embedding; else the config is wrong about it."""
    rows, columns = embed.shape
    same = tuple(head.get_shape()) == embed.shape
    step = max(1, CHUNK // columns)
    for start in range(0, rows if same else 0, step):
        stop = min(start + step, rows)
        same = same and np.array_equal(head[start:stop], embed.tensor[start:stop])
    if not same:
        raise UserError(
            found=f"in {directory} an lm_head.weight that differs from the embedding",
            expected="equal tables, since config.json says tie_word_embeddings",
            do="set tie_word_embeddings to false if the head is to be used",
        )
