"""From tensors in files to arrays on devices, one tensor at a time.

Readers of each format offer a `TensorSource` per parameter; `place_parameters`
holds them against the shapes the config asks for, tells everything that is wrong
in one sentence, and then fills one host array after another. Beyond the arrays
it returns, the host never holds more than one tensor and a small chunk of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import ml_dtypes
import numpy as np

from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.runtime.errors import UserError

Index = tuple[slice, ...]
#: (canonical name, shape) -> where this parameter shall live, or None for the default device.
ShardingFor = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]

#: Elements converted at once while a tensor is filled: half a megabyte, which stays in the cache
#: (reading SmolLM2 took 0.7 s of CPU so, and 1.2 with chunks four times larger or eight smaller).
CHUNK = 1 << 17

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


class TensorSource(Protocol):
    """One parameter in a file, in canonical orientation.

    Attributes:
        shape: canonical shape, matrices [in, out].
        label: file and tensor name, for messages.
    """

    shape: tuple[int, ...]
    label: str

    def read(self, index: Index, dtype: np.dtype) -> np.ndarray:
        """The part `index` (full slices, step 1) as a fresh array of `dtype`."""
        ...


def host_dtype(dtype: str) -> np.dtype:
    """The numpy dtype of `float32` or `bfloat16`.

    Raises:
        UserError: another name.
    """
    if dtype not in DTYPES:
        raise UserError(
            found=f"dtype {dtype!r}", expected=" or ".join(DTYPES), do="pass one of these"
        )
    return DTYPES[dtype]


def parameter_dtype(name: str, dtype: np.dtype) -> np.dtype:
    """`dtype`, but norm gains stay float32: they are few and multiply the whole stream."""
    return np.dtype(np.float32) if name.endswith(".gain") else dtype


def spans(index: Index, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(start, stop) along each axis of an index of step-1 slices."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def check_sources(
    where: str,
    config: ModelConfig,
    sources: Mapping[str, TensorSource],
    unexpected: list[str],
    names: Mapping[str, str],
) -> None:
    """Raise one `UserError` that names every missing, unexpected and misshapen tensor.

    Args:
        where: the file or folder, for the message.
        unexpected: tensor names in the file that no parameter uses.
        names: canonical name -> the name in the file.
    """
    shapes = parameter_shapes(config)
    missing = [names[name] for name in shapes if name not in sources]
    wrong = [
        f"{names[name]} {source.shape} instead of {shapes[name]}"
        for name, source in sources.items()
        if tuple(source.shape) != shapes[name]
    ]
    faults = []
    for kind, tensors in (
        ("missing", missing),
        ("unexpected", sorted(unexpected)),
        ("of another shape (as [in, out])", wrong),
    ):
        if tensors:
            shown = ", ".join(tensors[:8]) + (", ..." if len(tensors) > 8 else "")
            faults.append(f"{len(tensors)} tensors {kind}: {shown}")
    if faults:
        raise UserError(
            found=f"in {where} " + "; ".join(faults),
            expected=f"the {len(shapes)} tensors that its config describes",
            do="fetch the weights again, or use the config that belongs to them",
        )


def place_parameters(
    sources: Mapping[str, TensorSource],
    config: ModelConfig,
    dtype: str = "float32",
    sharding_for: ShardingFor | None = None,
) -> dict[str, jax.Array]:
    """Canonical name -> array, in the order of `parameter_shapes`.

    Args:
        sources: one per canonical parameter (see `check_sources`).
        dtype: `float32` or `bfloat16`, of everything but norm gains (float32).
        sharding_for: gives each parameter its sharding; each device then reads
            only its own part of the file.
    """
    wanted = host_dtype(dtype)
    out: dict[str, jax.Array] = {}
    for name, shape in parameter_shapes(config).items():
        source, to = sources[name], parameter_dtype(name, wanted)
        sharding = None if sharding_for is None else sharding_for(name, shape)
        if sharding is None:
            host = source.read(tuple(slice(0, size) for size in shape), to)
            array = jax.device_put(host)
        else:

            def part(index: Index, source: TensorSource = source, to: np.dtype = to) -> np.ndarray:
                return source.read(index, to)

            array = jax.make_array_from_callback(shape, sharding, part)
        # Waiting here bounds what the host holds: the next tensor is read when this one has left.
        out[name] = jax.block_until_ready(array)
    return out
