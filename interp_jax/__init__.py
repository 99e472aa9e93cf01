"""Language-model interpretability in JAX: interventions that are pure functions.

Importing the package is light: every public name is brought by the module that defines it when
it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from interp_jax.version import __version__

if TYPE_CHECKING:
    from interp_jax.runtime.errors import UserError as UserError

# Public name -> the module that defines it. The reference page is made from this table.
PUBLIC: dict[str, str] = {
    "UserError": "interp_jax.runtime.errors",
}

__all__ = ["__version__", *PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value  # asked once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
