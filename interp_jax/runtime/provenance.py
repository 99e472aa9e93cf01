"""Where an artefact comes from, carried inside it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.version import __version__

LIBRARIES = ("jax", "jaxlib", "flax", "penzai", "numpy", "tokenizers", "safetensors", "gguf")


def library_versions() -> dict[str, str]:
    """Versions of us, of Python, and of what we compute with; nothing is imported for it."""
    versions = {"interp_jax": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What every saved vector, adapter, dictionary, trace and report carries.

    Attributes:
        model: model id, with the hub revision where there is one.
        weights: hash of the weights (`hash_arrays` or `hash_file`).
        tokenizer: hash of the tokenizer.
        site: the site's string form, for what belongs to one.
        dtype: what was computed in, e.g. `"float32"`.
        data: what it was made from: a file's hash, a generator with its seed, a dataset id.
        seed: of the run.
        config: the resolved config, as JSON values.
        versions: package name to version.
    """

    model: str
    weights: str
    tokenizer: str
    dtype: str
    seed: int
    site: str | None = None
    data: str | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=library_versions)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "config": dict(self.config)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Provenance:
        """The inverse of `to_json`.

        Raises:
            UserError: a field is unknown or missing.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        # Versions too must come from the file: today's would be a false claim.
        needed = {"model", "weights", "tokenizer", "dtype", "seed", "versions"}
        if wrong := sorted((set(fields) - known) | (needed - set(fields))):
            raise UserError(
                found=f"provenance with fields unknown or missing: {', '.join(wrong)}",
                expected=f"{', '.join(sorted(known))}",
                do="read it with the version of interp_jax that wrote it",
            )
        return cls(**fields)


def hash_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_arrays(arrays: Any) -> str:
    """SHA-256 of a tree of arrays: names, dtypes, shapes and values, in hexadecimal.

    Leaves are taken in the order of their paths, so the order of insertion into a dict does not
    count; one leaf at a time is on the host.
    """
    digest = hashlib.sha256()
    leaves = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    ]
    for name, leaf in sorted(leaves, key=lambda pair: pair[0]):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{name}|{array.dtype.name}|{np.shape(leaf)}|".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
