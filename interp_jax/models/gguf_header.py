"""The header of a GGUF file: metadata and where each tensor lies.

Read here rather than with `gguf.GGUFReader`, which takes two seconds over a
vocabulary of 49k words; the numbers of the format and the decoding of quantised
blocks stay with the `gguf` package.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from interp_jax.runtime.errors import UserError

#: Type number in the file -> `struct` letter. 8 is a string, 9 an array.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """A tensor in the file.

    Attributes:
        shape: slowest axis first, so (out, in) for a matrix.
        kind: name of the element type, such as `Q4_1`.
        offset, n_bytes: where its bytes lie, from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    n_bytes: int


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """An open GGUF file.

    Attributes:
        metadata: key -> number, string, bool or list of them.
        data: the file's bytes, memory-mapped.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    data: np.ndarray


class _Cursor:
    """Little-endian values one after another out of a byte buffer."""

    def __init__(self, buffer: memoryview):
        self.buffer, self.at = buffer, 0

    def scalar(self, letter: str) -> Any:
        (value,) = struct.unpack_from("<" + letter, self.buffer, self.at)
        self.at += struct.calcsize("<" + letter)
        return value

    def text(self) -> str:
        (length,) = struct.unpack_from("<Q", self.buffer, self.at)
        start = self.at + 8
        self.at = start + length
        if self.at > len(self.buffer):
            raise struct.error("a text reaches past the end")
        return str(self.buffer[start : self.at], "utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            if count > len(self.buffer):
                raise struct.error("a list longer than the file")
            if inner in _SCALARS:
                form = f"<{count}{_SCALARS[inner]}"
                values = struct.unpack_from(form, self.buffer, self.at)
                self.at += struct.calcsize(form)
                return list(values)
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise struct.error(f"value type {kind}")
        return self.scalar(_SCALARS[kind])


def open_gguf(path: str | Path) -> GGUFFile:
    """Parse the header and check that every tensor lies inside the file.

    Raises:
        UserError: not a GGUF file of version 2 or 3, a header that breaks off, or
            tensors that reach past the end (a truncated download).
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size < 24:
        raise _broken(path, "which is no GGUF file")
    data = np.memmap(path, mode="r", dtype=np.uint8)
    cursor = _Cursor(memoryview(data))
    if bytes(data[:4]) != b"GGUF":
        raise _broken(path, "which does not begin with GGUF")
    cursor.at = 4
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise _broken(path, f"of GGUF version {version}")
    try:
        n_tensors, n_keys = cursor.scalar("Q"), cursor.scalar("Q")
        metadata = {}
        for _ in range(n_keys):
            key = cursor.text()
            metadata[key] = cursor.value(cursor.scalar("I"))
        entries = []
        for _ in range(n_tensors):
            name = cursor.text()
            sizes = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
            entries.append((name, tuple(reversed(sizes)), cursor.scalar("I"), cursor.scalar("Q")))
    except struct.error as error:
        raise _broken(path, f"whose header breaks off ({error})") from None
    alignment = int(metadata.get("general.alignment", 32))
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: _tensor(path, name, *rest, start) for name, *rest in entries}
    if cut := [t.name for t in tensors.values() if t.offset + t.n_bytes > data.size]:
        more = ", ..." if len(cut) > 8 else ""
        raise _broken(path, f"truncated: {len(cut)} tensors cut off: {', '.join(cut[:8])}{more}")
    return GGUFFile(path, metadata, tensors, data)


def _tensor(
    path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int, start: int
) -> GGUFTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        quant = GGMLQuantizationType(kind)
    except ValueError:
        raise _broken(path, f"with tensor {name} of the unknown type {kind}") from None
    block, block_bytes = GGML_QUANT_SIZES[quant]
    if not shape or shape[-1] % block:
        raise _broken(path, f"with tensor {name} of shape {shape} in blocks of {block}")
    n_bytes = math.prod(shape) // block * block_bytes
    return GGUFTensor(name, shape, quant.name, start + offset, n_bytes)


def _broken(path: Path, what: str) -> UserError:
    return UserError(
        found=f"{path} {what}",
        expected="a complete GGUF file of version 2 or 3",
        do="fetch it again",
    )
