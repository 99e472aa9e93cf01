"""Fields of a config dataclass that say their story: help, bounds, and whether results depend.

`runtime.flags` makes flags of them, `runtime.workdir` compares those that affect results.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A field with its help.

    Args:
        default: of the field.
        help: with the unit.
        metadata: `minimum`, `maximum`, `choices`, `affects_results`.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def how(default: Any, help: str, **metadata: Any) -> Any:
    """A field that says where and how fast, and does not change results."""
    return option(default, help, affects_results=False, **metadata)
