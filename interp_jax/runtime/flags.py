"""absl flags derived from a config dataclass, so that script and notebook share one truth.

Nothing is defined on import. A script calls `define_from_dataclass(Config)`, and in its main
`read_into_dataclass(Config)`. A field says its story in its metadata:

    batch_size: int = field(default=16, metadata={"help": "rows at once", "minimum": 1})

`help` (with the unit), `minimum`, `maximum`, and `choices`. Well-known fields (`workdir`, `seed`
and so on) have their help text here.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from absl import flags

from interp_jax.runtime.main import run_main as run_main

Config = TypeVar("Config")

# Help for the fields that many configs share; a config's own metadata goes before it.
COMMON = {
    "workdir": "Folder that everything is written to. Run the same command again to go on there.",
    "model": "Model to study: a folder, a .gguf file, or a hub id.",
    "revision": "Revision of a hub id.",
    "seed": "Root of all random draws.",
    "mesh": "Device mesh as axis:size pairs, e.g. data:2,model:4; -1 once for the rest.",
    "dtype": "Type that the weights are computed in.",
    "matmul_precision": "Precision of matrix products (changes numbers on TPU and GPU).",
    "batch_size": "Rows that are run at once.",
    "max_new_tokens": "Most tokens that are generated per row.",
    "temperature": "Sampling temperature; 0 takes the likeliest token.",
    "top_p": "Share of probability that sampling is kept to.",
    "checkpoint_every": "Steps between checkpoints.",
    "log_every": "Seconds between log lines where there is no terminal.",
    "smoke": "Run everything in seconds, with sizes too small to mean anything.",
    "plan_only": "Compile, print memory and operation counts, and stop.",
    "profile_steps": "Steps to record a profiler trace of, as first:last.",
    "compilation_cache_dir": "Folder that compiled programs are kept in between runs. Whoever can "
    "write there can run code as you.",
    "tensorboard": "Write TensorBoard files beside the JSON lines.",
}


class _Parser(flags.ArgumentParser):
    """Text to a value of one type; `none` for an optional one."""

    def __init__(self, kind: type, optional: bool, metadata: typing.Mapping[str, Any]):
        self.kind, self.optional, self.metadata = kind, optional, metadata
        self.syntactic_help = _syntax(kind, optional, metadata)

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):  # a default
            return argument
        if self.optional and argument.lower() == "none":
            return None
        value = _parse(argument, self.kind)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{argument} is not finite")
        low, high = self.metadata.get("minimum"), self.metadata.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"{argument} is not {self.syntactic_help}")
        choices = self.metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(f"{argument!r} is not {self.syntactic_help}")
        return value

    def flag_type(self) -> str:
        return self.syntactic_help


class _TupleParser(flags.ArgumentParser):
    """Comma-separated values; an empty text is the empty tuple."""

    def __init__(self, element: _Parser, optional: bool):
        self.element, self.optional = element, optional
        self.syntactic_help = f"comma-separated: {element.syntactic_help}"

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        if self.optional and argument.lower() == "none":
            return None
        parts = [part.strip() for part in argument.split(",")] if argument.strip() else []
        return tuple(self.element.parse(part) for part in parts)

    def flag_type(self) -> str:
        return self.syntactic_help


class _TupleSerializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return ",".join(str(part) for part in value)


def define_from_dataclass(cls: type, flag_values: flags.FlagValues | None = None) -> None:
    """Defines one flag per field of a config dataclass. For scripts only.

    Types: int, float, str, bool, `Literal`, tuples of those (`tuple[int, ...]`), and any of them
    or None. A field without default is a required flag.

    Args:
        cls: the config class.
        flag_values: where to define them; absl's own by default.

    Raises:
        TypeError: a field of another type.
    """
    flags.disclaim_key_flags()  # they count as the script's, so `--help` shows them
    flag_values = flags.FLAGS if flag_values is None else flag_values
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        metadata = dict(field.metadata)
        default, required = _default(field)
        help_text = metadata.get("help") or COMMON.get(field.name)
        if not help_text:
            raise TypeError(f"{cls.__name__}.{field.name} has no help in its metadata")
        kind, optional = _without_none(hints[field.name])
        if kind is bool and not optional:
            flags.DEFINE_bool(
                field.name, default, help_text, flag_values=flag_values, required=required
            )
            continue
        serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
        parser: flags.ArgumentParser
        if typing.get_origin(kind) is tuple:
            parts = typing.get_args(kind)
            if len(parts) != 2 or parts[1] is not Ellipsis:
                raise TypeError(f"{cls.__name__}.{field.name}: write tuple[TYPE, ...]")
            parser = _TupleParser(_element(parts[0], metadata, cls, field.name), optional)
            serializer = _TupleSerializer()
        else:
            parser = _element(kind, metadata, cls, field.name, optional)
        flags.DEFINE(
            parser,
            field.name,
            default,
            help_text,  # absl adds the parser's `syntactic_help`
            flag_values=flag_values,
            serializer=serializer,
            required=required,
        )


def read_into_dataclass(cls: type[Config], flag_values: flags.FlagValues | None = None) -> Config:
    """The config that the parsed flags describe."""
    flag_values = flags.FLAGS if flag_values is None else flag_values
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    return cls(**{name: flag_values[name].value for name in names})


def _default(field: dataclasses.Field) -> tuple[Any, bool]:
    if field.default is not dataclasses.MISSING:
        return field.default, False
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory(), False
    return None, True


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"a flag has one type, or one type and None, not {hint}")
    return kinds[0], True


def _element(
    kind: Any, metadata: dict[str, Any], cls: type, name: str, optional: bool = False
) -> _Parser:
    if typing.get_origin(kind) is typing.Literal:
        metadata = {**metadata, "choices": typing.get_args(kind)}
        kind = type(metadata["choices"][0])
    if kind not in (int, float, str, bool):
        raise TypeError(f"{cls.__name__}.{name}: no flag can hold a {kind}")
    return _Parser(kind, optional, metadata)


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        lowered = text.lower()
        if lowered not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return lowered == "true"
    return kind(text)


def _syntax(kind: type, optional: bool, metadata: typing.Mapping[str, Any]) -> str:
    low, high = metadata.get("minimum"), metadata.get("maximum")
    name = {int: "an integer", float: "a number", str: "", bool: "true or false"}[kind]
    if choices := metadata.get("choices"):
        name = "one of " + ", ".join(map(str, choices))
    if low is not None and high is not None:
        name += f" from {low} to {high}"
    elif low is not None:
        name += f", at least {low}"
    elif high is not None:
        name += f", at most {high}"
    return f"{name}, or none" if optional and name else name
