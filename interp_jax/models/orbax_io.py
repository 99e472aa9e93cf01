"""Parameters as an Orbax checkpoint: `config.json` in Hugging Face spelling, arrays beside it.

What is written keeps its dtype; what is read goes straight to where `sharding_for` wants it,
each device its own part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.families import config_from_hf, config_to_hf
from interp_jax.models.placing import ShardingFor, host_dtype
from interp_jax.runtime.atomic import atomic_write_json
from interp_jax.runtime.checkpoints import Checkpoints
from interp_jax.runtime.errors import UserError

ARRAYS = "orbax"


def save_orbax(
    directory: str | os.PathLike, config: ModelConfig, params: Mapping[str, jax.Array]
) -> Path:
    """Writes a network's parameters (`Decoder.parameters`) to a new folder.

    Raises:
        UserError: the folder holds a checkpoint already, or the disk is full.
    """
    directory = Path(directory)
    if (directory / ARRAYS).exists():
        raise UserError(
            found=f"{directory} with a checkpoint in it", expected="a new folder",
            do="choose another name",
        )  # fmt: skip
    gains = {name: str(value.dtype) for name, value in params.items()}
    with Checkpoints(directory / ARRAYS) as checkpoints:
        checkpoints.save(0, dict(params), extra={"dtypes": gains})
    # Last, so that a folder with a config has its arrays.
    atomic_write_json(directory / "config.json", config_to_hf(config))
    return directory


def read_orbax(
    directory: str | os.PathLike, dtype: str = "float32", sharding_for: ShardingFor | None = None
) -> tuple[ModelConfig, dict[str, jax.Array]]:
    """Reads what `save_orbax` wrote.

    Args:
        dtype: `float32` or `bfloat16`, the one that was saved; norm gains are float32.
        sharding_for: where each parameter lives; None for the default device.

    Raises:
        UserError: no checkpoint there, or one of another dtype or shape (named).
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file() or not (directory / ARRAYS).is_dir():
        raise UserError(
            found=f"no whole Orbax model in {directory}",
            expected=f"config.json and {ARRAYS}/", do="save it again with save_orbax",
        )  # fmt: skip
    config = config_from_hf(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {}
    for name, shape in parameter_shapes(config).items():
        own = host_dtype("float32" if name.endswith(".gain") else dtype)
        where = sharding_for(name, shape) if sharding_for is not None else None
        like[name] = jax.ShapeDtypeStruct(shape, own, sharding=where or default)
    with Checkpoints(directory / ARRAYS) as checkpoints:
        _, params, _ = checkpoints.restore(like)
    return config, params
