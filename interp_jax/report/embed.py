"""Data inside a page: plain JSON that no text in it can break out of.

A page carries its data in a `<script type="application/json">` block. An HTML
parser looks into such a block only for `</script` and `<!--`, and JavaScript
treats U+2028 and U+2029 as line ends; so `<`, `>`, `&` and everything outside
ASCII are written as `\\uXXXX`, which `JSON.parse` reads back unchanged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from interp_jax.runtime.errors import UserError

Plain = None | bool | int | float | str | list[Any] | dict[str, Any]


def plain(value: Any, where: str = "data") -> Plain:
    """Returns `value` as JSON types: arrays become lists, NaN becomes None.

    Args:
        value: nested mappings with string keys, sequences, numbers, strings, and
            NumPy or JAX arrays of any shape and numeric dtype.
        where: the name of `value` in error messages.

    Raises:
        UserError: an infinite number, a key that is not a string, or an object
            that has no JSON counterpart; the message names its place.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(float(value), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UserError(
                    found=f"the key {key!r} in {where}",
                    expected="string keys",
                    do="name the entry by a string",
                )
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind not in "biu":
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError):
                raise _no_counterpart(value, where) from None
        return plain(array.tolist(), where)
    raise _no_counterpart(value, where)


def embed_json(value: Any) -> str:
    """Returns `value` as JSON text that is safe inside a `<script>` element.

    Raises:
        UserError: as `plain` does.
    """
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(number: float, where: str) -> float | None:
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise UserError(
            found=f"an infinite number at {where}",
            expected="finite numbers, or NaN where a value is undefined",
            do="mend the computation that made it",
        )
    return number


def _no_counterpart(value: Any, where: str) -> UserError:
    return UserError(
        found=f"a {type(value).__name__} at {where}",
        expected="mappings, sequences, numbers, strings, arrays or None",
        do="convert it before it goes into a report",
    )
