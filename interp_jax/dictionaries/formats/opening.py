"""A dictionary from a path, whatever layout lies there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from interp_jax.dictionaries.formats import crosscoder, kissane, native, saelens
from interp_jax.dictionaries.formats.dictionary_learning import read_dictionary_learning
from interp_jax.dictionaries.formats.files import Loaded
from interp_jax.dictionaries.formats.gemma_scope import read_gemma_scope
from interp_jax.dictionaries.formats.saex import read_saex
from interp_jax.runtime.errors import UserError

Layout = Literal[
    "auto", "native", "crosscoder", "kissane", "saelens", "gemma_scope", "dictionary_learning",
    "saex",
]  # fmt: skip

# The file that gives a layout away, in the order they are looked for.
_SIGNS: tuple[tuple[str, Layout], ...] = (
    (native.CONFIG, "native"),
    (kissane.WEIGHTS, "kissane"),
    (saelens.WEIGHTS, "saelens"),
    (crosscoder.WEIGHTS, "crosscoder"),
    ("params.npz", "gemma_scope"),
    ("params.safetensors", "gemma_scope"),
    ("ae.safetensors", "dictionary_learning"),
    ("ae.npz", "dictionary_learning"),
)
_ONE_FILE = ("gemma_scope", "dictionary_learning", "saex")


def read_dictionary(
    path: str | Path, layout: Layout = "auto", scales: Sequence[float] = ()
) -> Loaded:
    """Reads a dictionary in any layout of this package.

    Args:
        path: a folder or a file, as the layout's reader takes it; of layouts of one file, also
            the folder that holds it under its usual name.
        layout: `auto` tells it by the names of the files that are there. A saex file has no usual
            name, so it has to be named.
        scales: what inputs are multiplied by where the files do not say: one number per model of
            `kissane`, one for `saelens` under `expected_average_only_in`.

    Raises:
        UserError: nothing known lies there, scales for a layout that takes none, or what the
            layout's reader raises.
    """
    path = Path(path)
    if layout not in get_args(Layout):
        raise UserError(
            found=f"layout {layout!r}", expected=f"one of {', '.join(get_args(Layout))}",
            do="correct the layout",
        )  # fmt: skip
    names = [name for name, _ in _SIGNS]
    here = [
        (name, own) for name, own in _SIGNS
        if (path / name).is_file() or (path.is_file() and path.name == name)
    ]
    if layout == "auto":
        if not here:
            raise UserError(
                found=f"no dictionary known by its files at {path}",
                expected=f"a folder with one of {', '.join(names)}",
                do="check the path, or name the layout",
            )  # fmt: skip
        layout = here[0][1]
    if path.is_dir() and layout in _ONE_FILE:
        own = [name for name, of in here if of == layout]
        path = path / own[0] if own else path
    elif path.is_file() and layout not in (*_ONE_FILE, "crosscoder"):
        path = path.parent
    if scales and layout not in ("kissane", "saelens"):
        raise UserError(
            found=f"scales for the layout {layout}", expected="none: its files say all",
            do="leave them out",
        )  # fmt: skip
    if layout == "saelens" and len(scales) > 1:
        raise UserError(
            found=f"{len(scales)} scales", expected="one for the layout saelens", do="give one"
        )
    readers: dict[str, Callable[[], Loaded]] = {
        "native": lambda: native.read_native(path),
        "crosscoder": lambda: crosscoder.read_crosscoder(path),
        "kissane": lambda: kissane.read_kissane(path, tuple(scales) or None),
        "saelens": lambda: saelens.read_saelens(path, scales[0] if scales else None),
        "gemma_scope": lambda: read_gemma_scope(path),
        "dictionary_learning": lambda: read_dictionary_learning(path),
        "saex": lambda: read_saex(path),
    }
    return readers[layout]()
