"""The folder of one run: same config, it goes on; another config, it is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from interp_jax.runtime import atomic
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.process import is_writer

CONFIG = "config.json"
_ABSENT = object()


class Workdir:
    """A folder that belongs to one config and can be re-entered.

    The config is written as `config.json` on the first run and compared on every later one.
    Fields that only say where and how fast (dataclass field metadata
    `{"affects_results": False}`, and the field `workdir` itself) are written but not compared.
    Only process 0 makes the folder and writes; the others read what there is.

    Args:
        path: the folder; made when missing.
        config: frozen dataclass, or a mapping of JSON values.

    Attributes:
        resumed: whether an earlier run with this config was met.

    Raises:
        UserError: another config was used here (the differing fields are shown), the path is not
            a folder, or the disk is full.
    """

    def __init__(self, path: str | os.PathLike, config: Any):
        self.path = pathlib.Path(path)
        self.config = to_json(config)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(
                found=f"a file at {self.path}",
                expected="a folder, or nothing",
                do="choose another workdir",
            )
        compared = _compared(config, self.config)
        used = _read(self.path / CONFIG)
        self.resumed = used is not None
        if used is not None:
            differences = [
                f"{name}: {_show(used, name)} there, {_show(self.config, name)} now"
                for name in sorted({*used, *self.config})
                if name in compared or name not in self.config
                if used.get(name, _ABSENT) != self.config.get(name, _ABSENT)
            ]
            if differences:
                raise UserError(
                    found=f"another config in {self.path} ({'; '.join(differences)})",
                    expected="the config that the folder was first used with",
                    do="choose another workdir, or give the same values to go on with that run",
                )
        elif is_writer():
            with atomic.disk_full_told(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            atomic.atomic_write_json(self.path / CONFIG, self.config)

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    def journal(self, name: str) -> Journal:
        """The journal `name` in this folder, with what earlier runs finished."""
        return Journal(self.path / name)

    def write_text(self, name: str, text: str) -> pathlib.Path:
        """Writes one file (UTF-8) by atomic rename; process 0 only. Returns its path."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> pathlib.Path:
        """Writes one file by atomic rename; process 0 only. Returns its path."""
        if is_writer():
            self._folder_of(name)
            atomic.atomic_write_bytes(self.path / name, data)
        return self.path / name

    def write_json(self, name: str, obj: Any) -> pathlib.Path:
        """Writes one JSON file by atomic rename; process 0 only. Returns its path."""
        if is_writer():
            self._folder_of(name)
            atomic.atomic_write_json(self.path / name, obj)
        return self.path / name

    def _folder_of(self, name: str) -> None:
        with atomic.disk_full_told(self.path / name):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)


def to_json(config: Any) -> dict[str, Any]:
    """A config (dataclass or mapping) as it looks after a trip through JSON.

    Raises:
        UserError: a value that JSON cannot hold, by field.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = dataclasses.asdict(config)
    elif isinstance(config, Mapping):
        fields = dict(config)
    else:
        raise TypeError(f"a config is a dataclass or a mapping, not {type(config).__name__}")
    result = {}
    for name, value in fields.items():
        try:
            result[name] = json.loads(json.dumps(value, default=os.fspath, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError(
                found=f"config field {name} = {value!r}",
                expected="a value that JSON can hold",
                do="use numbers, text, lists and None",
            ) from error
    return result


def _compared(config: Any, fields: Mapping[str, Any]) -> set[str]:
    names = set(fields) - {"workdir"}
    if dataclasses.is_dataclass(config):
        names -= {
            field.name
            for field in dataclasses.fields(config)
            if not field.metadata.get("affects_results", True)
        }
    return names


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        used = json.loads(path.read_bytes())
        if not isinstance(used, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            found=f"an unreadable {path} ({error})",
            expected="the config that the folder was first used with",
            do="choose another workdir",
        ) from error
    return used


def _show(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else "absent"
