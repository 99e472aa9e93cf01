"""Writes the reference page of the public API from the docstrings.

    python scripts/reference.py --out docs/reference.md

First the names that `interp_jax` itself offers, then every module with what it defines.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pathlib

import interp_jax
from interp_jax.runtime.atomic import atomic_write_text
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass, run_main

PACKAGE = pathlib.Path(interp_jax.__file__).parent
PARTS = (
    "runtime models interventions generation dictionaries finetuning text report studies testing"
).split()


@dataclasses.dataclass(frozen=True)
class Config:
    """What is written where."""

    out: str = dataclasses.field(
        default="docs/reference.md", metadata={"help": "File that the page is written to."}
    )


def signature(thing: object) -> str:
    """The call signature, one parameter a line when it is long."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    if [*found.parameters] == ["args", "kwargs"] and dataclasses.is_dataclass(thing):
        found = fields_signature(thing)  # a pytree's constructor takes what its fields say
    text = str(found)
    if len(text) <= 80:
        return text
    lines = [f"    {parameter}," for parameter in found.parameters.values()]
    returns = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    return "(\n" + "\n".join(lines) + f"\n){returns}"


def fields_signature(thing: type) -> inspect.Signature:
    """The signature that a dataclass's fields make."""
    parameters = []
    for field in dataclasses.fields(thing):
        default = field.default
        if default is dataclasses.MISSING:
            made = field.default_factory
            default = inspect.Parameter.empty if made is dataclasses.MISSING else made()
        kind = (
            inspect.Parameter.KEYWORD_ONLY
            if field.kw_only
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        parameters.append(
            inspect.Parameter(field.name, kind, default=default, annotation=field.type)
        )
    return inspect.Signature(parameters)


def described(name: str, thing: object) -> str:
    """One public name: signature, docstring, and the methods of a class."""
    kind = "class " if inspect.isclass(thing) else ""
    lines = [f"### `{name}`", ""]
    if callable(thing):
        lines += ["```python", f"{kind}{name}{signature(thing)}", "```", ""]
    lines += [block(inspect.getdoc(thing) or ""), ""]
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            value = getattr(value, "__func__", value)
            if method.startswith("_") or not inspect.isfunction(value):
                continue
            first = (inspect.getdoc(value) or "").split("\n\n")[0]
            lines.append(f"- `{method}{inspect.signature(value)}`: {' '.join(first.split())}")
        lines.append("")
    return "\n".join(lines)


def block(docstring: str) -> str:
    """A docstring as Markdown: its sections (`Args:` and the like) keep their layout."""
    text, _, sections = docstring.partition("\n\nArgs:")
    marker = "Args:"
    if not sections:
        for marker in ("Returns:", "Raises:", "Attributes:"):
            text, _, sections = docstring.partition(f"\n\n{marker}")
            if sections:
                break
    if not sections:
        return docstring
    return f"{text}\n\n```text\n{marker}{sections}\n```"


def module_lines() -> list[str]:
    """One line per module, and the public functions and classes it defines, read unimported."""
    lines: list[str] = []
    for part in PARTS:
        if not (PACKAGE / part).is_dir():
            continue
        for path in sorted((PACKAGE / part).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            first = (ast.get_docstring(tree) or "").split("\n\n")[0]
            dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            dotted = dotted.removesuffix(".__init__")
            names = [
                f"`{node.name}`"
                for node in tree.body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not node.name.startswith("_")
            ]
            depth = "##" if dotted.count(".") == 1 else None
            if depth:
                lines += ["", f"## `{dotted}`", "", " ".join(first.split()), ""]
            else:
                listed = f" {', '.join(names)}" if names else ""
                lines.append(f"- `{dotted}`: {' '.join(first.split())}{listed}")
    return lines


def page() -> str:
    """The whole page, as Markdown."""
    lines = [
        "# Reference",
        "",
        f"`interp_jax` {interp_jax.__version__}. Made from the docstrings by `make docs`.",
        "",
        "## `interp_jax`",
        "",
    ]
    for name, module in sorted(interp_jax.PUBLIC.items()):
        lines.append(described(name, getattr(importlib.import_module(module), name)))
    lines += ["# Modules", *module_lines()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page."""
    config = read_into_dataclass(Config)
    out = pathlib.Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out, page())
    print(f"Wrote {out}")


if __name__ == "__main__":
    define_from_dataclass(Config)
    run_main(main)
