"""Where the parts of a training state lie on a mesh.

Latents are cut along `model`: weights, their gradients and the optimiser's moments with them, so
that devices exchange partial reconstructions only. Rows of a batch, and of a ring in device
memory, are cut along `data`. A dimension that its axis does not divide is whole on every device.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from interp_jax.dictionaries.config import (
    DictionaryConfig,
    axis_letters,
    count_shapes,
    parameter_shapes,
    statistic_shapes,
)
from interp_jax.runtime.mesh import partition_spec


def fitting(letters: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """`named_sharding` of these letters, without axes that do not divide their dimension."""
    spec = list(partition_spec(letters, mesh))
    for axis, (cut, size) in enumerate(zip(spec, shape, strict=True)):
        if cut is not None and size % mesh.shape[cut]:
            spec[axis] = None
    return NamedSharding(mesh, PartitionSpec(*spec))


def state_shardings(state: Any, config: DictionaryConfig, mesh: Mesh) -> Any:
    """A sharding for every leaf of a tree with dictionaries, their optimiser state and counts.

    A leaf belongs to the array that its path names last, with an axis of dictionaries before the
    array's own. What belongs to none (step numbers, keys) is whole on every device.
    """
    shapes = parameter_shapes(config) | count_shapes(config) | statistic_shapes(config)

    def place(path, leaf):
        names = [str(getattr(part, "key", getattr(part, "name", None))) for part in path]
        known = [name for name in names if name in shapes]
        if not known or leaf.ndim != 1 + len(shapes[known[-1]]):
            return NamedSharding(mesh, PartitionSpec())
        # A letter may stand for an axis that only some dictionaries have (per-output thresholds).
        letters = ("L" + axis_letters(known[-1]))[: leaf.ndim]
        return fitting(letters, leaf.shape, mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def row_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """For rows [n, ...] of activations."""
    return fitting("B" + "L" * (len(shape) - 1), shape, mesh)
