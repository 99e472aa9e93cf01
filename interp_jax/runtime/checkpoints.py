"""Train state on disk, through Orbax: step-numbered, atomic, the last N kept.

Beside the arrays lies a table of every leaf's path, dtype and shape, so that a state of another
form is refused by name before anything is read. Typed keys are kept as their data and the name
of their implementation.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime.atomic import disk_full_told
from interp_jax.runtime.errors import UserError


class Checkpoints:
    """The checkpoints of one run. Every process of the run makes one and calls it alike.

    Args:
        folder: made when missing.
        keep: how many of the last checkpoints stay; None keeps all.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int | None = 3):
        import orbax.checkpoint as ocp

        self.folder = pathlib.Path(folder).absolute()
        self._ocp = ocp
        with disk_full_told(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
            )

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The last step that is whole on the disk, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, extra: Any = None) -> None:
        """Begins to save a state; training may go on (the arrays are copied before this returns).

        Args:
            step: the number of finished steps; greater than any saved before.
            state: tree of arrays, typed keys, and Python numbers.
            extra: JSON values to go with it, such as a data cursor.

        Raises:
            UserError: the step was saved already, or the disk is full.
        """
        if step in self._manager.all_steps():
            raise UserError(
                found=f"a checkpoint of step {step} in {self.folder}",
                expected="a new step",
                do="restore it and go on from there",
            )
        args = self._ocp.args
        with disk_full_told(self.folder):
            self._manager.save(
                step,
                args=args.Composite(
                    arrays=args.StandardSave(_arrays(state)),
                    about=args.JsonSave({"leaves": _table(state), "extra": extra}),
                ),
                force=True,
            )

    def restore(self, like: Any, step: int | None = None) -> tuple[int, Any, Any]:
        """Reads a state back.

        Args:
            like: a state of the same form: its arrays (or `jax.ShapeDtypeStruct`s) say where each
                leaf is to lie, its structure is the result's.
            step: which one; the last by default.

        Returns:
            `(step, state, extra)`.

        Raises:
            UserError: there is no such checkpoint, or it is of another form (the leaves that
                differ are named).
        """
        self.wait()
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise UserError(
                found=f"no checkpoint{'' if step is None else f' of step {step}'} in {self.folder}",
                expected=f"one of the steps {self.steps()}" if self.steps() else "at least one",
                do="check the folder",
            )
        args = self._ocp.args
        about = self._manager.restore(step, args=args.Composite(about=args.JsonRestore())).about
        _check(about["leaves"], _table(like), self.folder / str(step))
        arrays = self._manager.restore(
            step, args=args.Composite(arrays=args.StandardRestore(_abstract(like)))
        ).arrays
        leaves, structure = jax.tree.flatten(like)
        restored = [_like_leaf(arrays[_name(i)], leaf) for i, leaf in enumerate(leaves)]
        return step, jax.tree.unflatten(structure, restored), about["extra"]

    def wait(self) -> None:
        """Returns when everything begun is on the disk.

        Raises:
            UserError: the disk is full; what was saved before stays.
        """
        with disk_full_told(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and gives everything back."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name(index: int) -> str:
    # Paths may hold any character; the table says which leaf is which.
    return f"leaf_{index:06d}"


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.dtype("V")), jax.dtypes.prng_key)


def _table(state: Any) -> list[dict[str, Any]]:
    """Path, dtype and shape of every leaf, in order."""
    table = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if _is_key(leaf):
            # `key<fry>` says the implementation, and the check compares it.
            dtype = str(leaf.dtype)
        elif hasattr(leaf, "dtype"):
            dtype = np.dtype(leaf.dtype).name
        else:
            dtype = f"Python {type(leaf).__name__}"
        table.append(
            {
                "path": jax.tree_util.keystr(path),
                "dtype": dtype,
                "shape": list(np.shape(leaf)),
            }
        )
    return table


def _arrays(state: Any) -> dict[str, Any]:
    arrays = {}
    for index, leaf in enumerate(jax.tree.leaves(state)):
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        elif not isinstance(leaf, jax.Array):
            leaf = np.asarray(leaf)
        arrays[_name(index)] = leaf
    return arrays


def _abstract(like: Any) -> dict[str, Any]:
    """What Orbax is to make of each leaf: shape, dtype, and where it lies."""
    result = {}
    for index, leaf in enumerate(jax.tree.leaves(like)):
        if _is_key(leaf):
            data = jax.eval_shape(jax.random.key_data, leaf)
            # A key's sharding has no dimension for its words; keys are small, so each device
            # gets all of them, and `_like_leaf` puts them back where they were.
            result[_name(index)] = np.zeros(data.shape, data.dtype)
        elif isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
            result[_name(index)] = jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            )
        else:
            result[_name(index)] = np.asarray(leaf)
    return result


def _like_leaf(value: Any, leaf: Any) -> Any:
    if _is_key(leaf):
        key = jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
        return jax.device_put(key, leaf.sharding) if leaf.sharding is not None else key
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return value
    if isinstance(leaf, np.ndarray):
        return np.asarray(value)
    return type(leaf)(np.asarray(value)[()])


def _check(there: list[dict[str, Any]], here: list[dict[str, Any]], path: pathlib.Path) -> None:
    saved = {leaf["path"]: leaf for leaf in there}
    asked = {leaf["path"]: leaf for leaf in here}
    wrong = [
        f"{name or 'the state'} is {_form(saved.get(name))}, not {_form(asked.get(name))}"
        for name in sorted({*saved, *asked})
        if saved.get(name) != asked.get(name)
    ]
    # The arrays are numbered in this order, so it counts as well.
    if not wrong and [leaf["path"] for leaf in there] != [leaf["path"] for leaf in here]:
        wrong = [f"leaves in the order {json.dumps([leaf['path'] for leaf in there])}"]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            found=f"a checkpoint of another form in {path} ({'; '.join(wrong[:5])}{more})",
            expected="the form of the state that is to be restored",
            do="restore it with the config it was saved with",
        )


def _form(leaf: dict[str, Any] | None) -> str:
    return f"{leaf['dtype']}{leaf['shape']}" if leaf else "absent"
