"""What a weight reader holds on the host while it reads, beyond what it returns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import jax

from interp_jax.models.config import ModelConfig

Read = Callable[[], tuple[ModelConfig, dict[str, jax.Array]]]


def most_held(read: Read, source_class: type, monkeypatch: Any) -> tuple[int, dict[str, jax.Array]]:
    """(most bytes held at once beyond the returned arrays, the returned parameters).

    Host arrays that the device took over without copying are the result itself; they are
    told by their address and not counted.

    Args:
        read: reads on one device.
        source_class: the reader's `TensorSource`, whose `read` is watched.
        monkeypatch: pytest's.
    """
    parts, original = [], source_class.read

    def watched(self, index, dtype):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        out = original(self, index, dtype)
        parts.append((before, tracemalloc.get_traced_memory()[1], out.ctypes.data, out.nbytes))
        return out

    monkeypatch.setattr(source_class, "read", watched)
    tracemalloc.start()
    try:
        _, params = read()
    finally:
        tracemalloc.stop()
    taken = {array.unsafe_buffer_pointer() for array in params.values()}
    most = kept = 0
    for before, peak, address, size in parts:
        assert peak - before >= size, "the reader's own array is not seen: nothing is measured"
        most = max(most, peak - kept)
        kept += size * (address in taken)
    assert len(parts) == len(params)
    return most, params


def sizes(params: dict[str, jax.Array]) -> tuple[int, int]:
    """(bytes of the largest, bytes of all)."""
    held = [array.nbytes for array in params.values()]
    return max(held), sum(held)
