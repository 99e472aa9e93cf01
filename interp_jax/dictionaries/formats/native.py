"""Our own layout: every array, counts included, and the config: dictionary.safetensors, .json."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.files import (
    Loaded,
    check_names,
    check_value,
    numpy_arrays,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

WEIGHTS, CONFIG, VERSION = "dictionary.safetensors", "dictionary.json", 1


def read_native(folder: str | Path) -> Loaded:
    """A dictionary from `write_native`'s folder.

    Raises:
        UserError: another version, unknown config fields, or arrays that do not fit.
    """
    content = read_json(Path(folder) / CONFIG)
    check_names(CONFIG, content, {"version", "config"}, {"provenance"})
    check_value("version", content["version"], [VERSION])
    fields = content["config"]
    names = {field.name for field in dataclasses.fields(DictionaryConfig)}
    check_names("the config", fields, {"width", "latents"}, names)
    lists = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    tensors = read_tensors(Path(folder) / WEIGHTS)
    arrays = {name: jnp.asarray(tensor) for name, tensor in tensors.items()}
    dictionary = Dictionary(DictionaryConfig(**lists), arrays)
    return Loaded(dictionary, {CONFIG: content})


def write_native(folder: str | Path, loaded: Loaded) -> None:
    """Writes the weights, then the JSON that makes the folder complete.

    `loaded.json` may carry `provenance` under `dictionary.json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, numpy_arrays(loaded.dictionary), {})
    content = {"version": VERSION, "config": dataclasses.asdict(loaded.dictionary.config)}
    if "provenance" in loaded.json.get(CONFIG, {}):
        content["provenance"] = loaded.json[CONFIG]["provenance"]
    write_json(folder / CONFIG, content)


def provenance_of(loaded: Loaded) -> dict[str, Any]:
    """What a dictionary of our own layout tells of its training; nothing from any other."""
    return loaded.json.get(CONFIG, {}).get("provenance") or {}
