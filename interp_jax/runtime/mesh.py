"""Meshes from one line of text, and the table from axis letters to mesh axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from interp_jax.runtime.errors import UserError

AXES = ("data", "fsdp", "model")

# Axis letter of a tensor -> the mesh axis it is cut along; None: every device has all of it.
LETTERS: dict[str, str | None] = {
    "B": "data",  # batch: rollouts, prompts, sources
    "T": None,  # tokens
    "L": None,  # layers, scanned over
    "H": "model",  # heads
    "K": "model",  # key-value heads
    "D": "fsdp",  # width of the residual stream
    "F": "model",  # features: MLP hidden units, dictionary latents
    "V": "model",  # vocabulary
    "S": None,  # sentences
}


def parse_mesh(text: str, devices: int) -> dict[str, int]:
    """Axis sizes from text such as `data:2,model:4` or `data:-1`.

    Args:
        text: comma-separated `axis:size`, axes of `AXES`; one size may be -1, "the rest".
        devices: how many devices there are; the sizes must multiply to it.

    Raises:
        UserError: an axis unknown or twice, a size that is no positive integer, -1 twice, or
            sizes that do not fit the devices.
    """

    def refuse(found: str, expected: str) -> UserError:
        return UserError(
            found=f"{found} in mesh {text!r}",
            expected=expected,
            do=f"write for example data:{devices}, or data:-1",
        )

    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (piece.strip() for piece in part.partition(":"))
        if name not in AXES:
            raise refuse(f"axis {name!r}", f"axes among {', '.join(AXES)}")
        if name in sizes:
            raise refuse(f"axis {name!r} twice", "each axis once")
        try:
            sizes[name] = int(size)
        except ValueError:
            sizes[name] = 0
        if sizes[name] < 1 and sizes[name] != -1:
            raise refuse(f"size {size!r}", "a positive number, or -1 for the rest")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise refuse("-1 twice", "-1 at most once")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free and devices % known == 0:
        sizes[free[0]] = devices // known
    elif free or known != devices:
        raise refuse(
            f"sizes that multiply to {known}" + (" before the -1" if free else ""),
            f"a divisor of the {devices} devices" if free else f"the {devices} devices there are",
        )
    return sizes


def make_mesh(text: str = "data:-1", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `text` describes, with Auto axes, over `devices` (all, by default).

    Raises:
        UserError: as `parse_mesh`.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = parse_mesh(text, len(devices))
    # Auto is said aloud: JAX's default differs between releases, and under its newer one a
    # gather raises.
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=np.asarray(devices).ravel().tolist(),
    )


def partition_spec(letters: str, mesh: Mesh) -> PartitionSpec:
    """How a tensor named `letters` (e.g. `"BTD"`) lies on the mesh.

    A mesh axis that the mesh lacks, or that an earlier letter took, is left out.

    Raises:
        UserError: a letter that `LETTERS` does not know.
    """
    spec: list[str | None] = []
    for letter in letters:
        if letter not in LETTERS:
            raise UserError(
                found=f"axis letter {letter!r} in {letters!r}",
                expected=f"letters among {''.join(LETTERS)}",
                do="name the tensor's axes with the letters of the glossary",
            )
        axis = LETTERS[letter]
        spec.append(axis if axis in mesh.axis_names and axis not in spec else None)
    return PartitionSpec(*spec)


def named_sharding(letters: str, mesh: Mesh) -> NamedSharding:
    """As `partition_spec`, as a sharding for `jax.device_put` and `jax.jit`."""
    return NamedSharding(mesh, partition_spec(letters, mesh))


def describe_letters(mesh: Mesh) -> str:
    """The table for this mesh, one line per letter."""
    return "\n".join(
        f"{letter}  {partition_spec(letter, mesh)[0] or 'whole on every device'}"
        for letter in LETTERS
    )
