"""Examples on disk: one npz of plain arrays."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import numpy as np

from interp_jax.dictionaries.examples_shown import Examples, Shown
from interp_jax.dictionaries.formats.files import read_tensors
from interp_jax.runtime.atomic import atomic_write_bytes
from interp_jax.runtime.errors import UserError

VERSION = 1


def save_examples(path: str | os.PathLike[str], examples: Examples) -> Path:
    """Writes `path` (ending in .npz) whole or not at all, and returns it."""
    file = io.BytesIO()
    np.savez(file, version=np.asarray(VERSION), **_arrays(examples))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, file.getvalue())
    return path


def load_examples(path: str | os.PathLike[str]) -> Examples:
    """What `save_examples` wrote.

    Raises:
        UserError: no such file, a broken one, or one of another version or kind.
    """
    arrays = read_tensors(path)
    version = arrays.pop("version", None)
    names = set(_names())
    if version is None or int(version) != VERSION or set(arrays) != names:
        raise UserError(
            found=f"{Path(path).name} with {', '.join(sorted(arrays)) or 'nothing'}",
            expected=f"examples of version {VERSION}", do="collect the examples again",
        )
    parts = {
        field.name: Shown(*(arrays.pop(f"{field.name}.{p.name}") for p in _parts()))
        for field in dataclasses.fields(Examples) if field.name in ("top", "bands")
    }
    numbers = {name: int(arrays.pop(name)) for name in ("tokens", "before")}
    return Examples(**arrays, **parts, **numbers)


def _parts():
    return dataclasses.fields(Shown)


def _names() -> list[str]:
    names = []
    for field in dataclasses.fields(Examples):
        inner = field.name in ("top", "bands")
        names += [f"{field.name}.{p.name}" for p in _parts()] if inner else [field.name]
    return names


def _arrays(examples: Examples) -> dict[str, np.ndarray]:
    found = {}
    for name in _names():
        value = examples
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = np.asarray(value)
    return found
