"""Tensors and JSON in and out: safetensors and npz, never pickles, whole or not at all."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime.atomic import atomic_write_bytes, atomic_write_text
from interp_jax.runtime.errors import UserError

_PICKLED = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A dictionary, and what its file says beside.

    Attributes:
        dictionary: float32 arrays.
        json: file name -> its content, as read.
        dtypes: tensor name -> dtype in the file; what is not named is written as float32.
        extra: tensors that a dictionary has no place for, as read.
    """

    dictionary: Dictionary
    json: dict[str, Any] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)
    extra: Tensors = dataclasses.field(default_factory=dict)


def read_tensors(path: str | Path) -> Tensors:
    """Every tensor of a safetensors or npz file.

    Raises:
        UserError: a pickle (which could run code), a file that is not there or is corrupt, or an
            npz that holds Python objects.
    """
    path = Path(path)
    if path.suffix in _PICKLED:
        raise UserError(
            found=f"{path.name}, which is a pickle and could run code when read",
            expected="safetensors or npz",
            do="convert it where you trust it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)",
        )
    if not path.is_file():
        pickles = [p.name for p in path.parent.glob("*") if p.suffix in _PICKLED]
        raise UserError(
            found=f"no file {path}" + (f", but {', '.join(sorted(pickles))}" if pickles else ""),
            expected="safetensors or npz",
            do="convert the pickle to safetensors" if pickles else "check the path",
        )
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # each library has its own kind for a corrupt file
        raise UserError(
            found=f"{path.name} which cannot be read ({error})",
            expected="a complete safetensors or npz file of plain numbers",
            do="fetch it again",
        ) from None


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: no file, or no JSON object.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            found=f"{path} which cannot be read as JSON ({error})",
            expected="a JSON object",
            do="fetch it again",
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            found=f"{path} of {type(content).__name__}", expected="an object", do="fix it"
        )
    return content


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """A JSON object, indented, atomically."""
    atomic_write_text(path, json.dumps(content, indent=2) + "\n")


def write_tensors(path: str | Path, tensors: Tensors, dtypes: Mapping[str, str]) -> None:
    """A safetensors or npz file (by the suffix), atomically, each tensor in its stated dtype.

    Raises:
        UserError: a value that its dtype cannot hold exactly.
    """
    path = Path(path)
    out: Tensors = {}
    for name, tensor in tensors.items():
        dtype = jnp.dtype(dtypes.get(name, tensor.dtype.name))
        cast = np.array(tensor, dtype, order="C")
        if not np.array_equal(
            cast.astype(tensor.dtype), tensor, equal_nan=tensor.dtype.kind != "i"
        ):
            raise UserError(
                found=f"{name} with values that {dtype} cannot hold",
                expected="the values to be those of the file that was read",
                do="leave the dtypes out when writing a changed dictionary",
            )
        out[name] = cast
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **out)
        atomic_write_bytes(path, buffer.getvalue())
    else:
        from safetensors.numpy import save

        atomic_write_bytes(path, save(out))


def check_names(
    what: str, found: Iterable[str], needed: Iterable[str], allowed: Iterable[str] = ()
) -> None:
    """Refuses names that are missing or unknown, naming them.

    Raises:
        UserError: as said.
    """
    found, needed = set(found), set(needed)
    if missing := sorted(needed - found):
        raise UserError(
            found=f"{what} without {', '.join(missing)}",
            expected=", ".join(sorted(needed)),
            do="check that the file has this layout",
        )
    if unknown := sorted(found - needed - set(allowed)):
        raise UserError(
            found=f"{what} with the unknown {', '.join(unknown)}",
            expected=f"only {', '.join(sorted(needed | set(allowed)))}",
            do="remove what does not belong there, or ask for support: "
            "ignoring it could change the numbers",
        )


def check_value(what: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuses a setting that is not followed here.

    Raises:
        UserError: as said.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(
            found=f"{what} = {value!r}",
            expected=" or ".join(repr(a) for a in allowed),
            do="use another dictionary; this setting is not supported",
        )


def dtypes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Tensor name -> dtype name."""
    return {name: tensor.dtype.name for name, tensor in tensors.items()}


def float32(tensor: np.ndarray) -> jax.Array:
    """As a float32 array."""
    return jnp.asarray(np.asarray(tensor, np.float32))


def numpy_arrays(dictionary: Dictionary) -> Tensors:
    """The dictionary's arrays on the host."""
    return {name: np.asarray(array) for name, array in dictionary.arrays().items()}


def refuse_write(layout: str, why: str) -> UserError:
    """The error of a dictionary that a layout cannot express."""
    return UserError(
        found=f"a dictionary with {why}",
        expected=f"one that the {layout} layout can hold",
        do="write it in the native layout",
    )
