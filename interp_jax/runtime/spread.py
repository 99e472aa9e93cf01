"""Data-parallel work: a pure function spread over the devices of a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from interp_jax.runtime.errors import UserError


class Spread:
    """See `spread`."""

    def __init__(
        self,
        function: Callable[..., Any],
        mesh: Mesh,
        batch_args: Sequence[int] = (0,),
        axis: str = "data",
    ):
        if axis not in mesh.axis_names:
            raise UserError(
                found=f"a mesh with axes {', '.join(mesh.axis_names)}",
                expected=f"an axis {axis!r}",
                do=f"make the mesh with {axis}:-1",
            )
        self.mesh, self.shards = mesh, mesh.shape[axis]
        self._batch_args = frozenset(batch_args)
        self._split = NamedSharding(mesh, PartitionSpec(axis))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._jitted = jax.jit(self._checked(function))

    def __call__(self, *args: Any) -> Any:
        """The function's outputs for the rows given; padding is made and cut here."""
        rows = self._rows(args)
        padded = -(-rows // self.shards) * self.shards
        # Padding repeats row 0: real data, so nothing can become non-finite that was not.
        source = np.where(np.arange(padded) < rows, np.arange(padded), 0)
        placed = [
            jax.tree.map(lambda x: self._place(x, source, rows != padded), arg)
            if place in self._batch_args
            else jax.device_put(arg, self._whole)
            for place, arg in enumerate(args)
        ]
        out = self._jitted(*placed)
        return out if rows == padded else jax.tree.map(lambda x: x[:rows], out)

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its outputs checked while it is traced, and kept where they arose."""

        @functools.wraps(function)
        def checked(*args: Any) -> Any:
            rows = self._rows(args)
            out = function(*args)
            for path, leaf in jax.tree_util.tree_leaves_with_path(out):
                if jax.numpy.shape(leaf)[:1] != (rows,):
                    raise UserError(
                        found=f"an output{jax.tree_util.keystr(path)} of shape "
                        f"{jax.numpy.shape(leaf)}",
                        expected=f"{rows} rows, one for each row of the batch",
                        do="return one result per row, and reduce over rows outside",
                    )
            return jax.lax.with_sharding_constraint(out, self._split)

        return checked

    def _place(self, leaf: Any, source: np.ndarray, pad: bool) -> jax.Array:
        return jax.device_put(leaf[source] if pad else leaf, self._split)

    def _rows(self, args: Sequence[Any]) -> int:
        sizes = {
            leaf.shape[0] if leaf.ndim else None
            for place in self._batch_args
            for leaf in jax.tree.leaves(args[place])
        }
        if len(sizes) != 1 or not (rows := sizes.pop()):
            raise UserError(
                found=f"batch arrays with {sorted(map(str, sizes)) or 'no'} rows",
                expected="the same positive number of rows in all of them",
                do="give arrays whose leading axis is the batch",
            )
        return rows


def spread(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    batch_args: Sequence[int] = (0,),
    axis: str = "data",
) -> Spread:
    """A version of a pure function that runs its rows on all devices along `axis`.

    Global view: the function is jitted once over the mesh, its batch arguments cut along their
    leading axis, the others whole on every device. A batch that the devices do not divide is
    padded with copies of its first row, and the outputs are cut back. Another (padded) number of
    rows is another shape, and compiles again.

    Args:
        function: pure; every output leaf has the batch as its leading axis, and a row's output
            depends on that row alone.
        mesh: from `interp_jax.runtime.mesh.make_mesh`.
        batch_args: which positional arguments carry the batch (pytrees of arrays `[B, ...]`,
            typed keys included).
        axis: the mesh axis that the batch is cut along.

    Raises:
        UserError: the mesh lacks the axis; or, when called, arrays that disagree about the
            number of rows, or an output without a row per row.
    """
    return Spread(function, mesh, batch_args, axis)
