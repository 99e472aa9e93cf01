"""Rows for training from caches on disk, several texts interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.cache import ActivationCache, common_rows
from interp_jax.dictionaries.row_source import Chunk
from interp_jax.runtime.errors import UserError


class CacheSource:
    """A `RowSource` of caches.

    Texts are interleaved row by row (web, chat, web, chat, as section 4.2), so that every chunk
    has equal parts of each; the source ends with the shortest text.

    Args:
        texts: for each text, its caches in the order of the inputs.
        size: rows of a chunk; a multiple of the number of texts.
        targets: for each text, caches of what a transcoder reconstructs.
        dtype: of the rows.

    Raises:
        UserError: widths or numbers of inputs that differ, or tokens that do.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[ActivationCache]],
        size: int,
        *,
        targets: Sequence[Sequence[ActivationCache]] = (),
        dtype: Literal["float32", "bfloat16"] = "float32",
    ):
        self._parts = {"x": texts} | ({"target": targets} if targets else {})
        wrong = {len(part) for part in self._parts.values()} != {len(texts)}
        if not texts or wrong or size % len(texts):
            raise UserError(
                found=f"{len(texts)} texts, {len(targets)} of targets, in chunks of {size} rows",
                expected="one or more, targets for all or none, and a multiple of their number",
                do="change the chunk's size or the lists",
            )
        self.size, self._each, self._at = size, size // len(texts), 0
        self._dtype = jnp.dtype(dtype)
        self.shapes = {}
        for name, part in self._parts.items():
            forms = {tuple(cache.width for cache in caches) for caches in part}
            (form, *others) = forms
            if others or len(set(form)) != 1:
                raise UserError(
                    found=f"caches of widths {sorted(forms)} for {name}",
                    expected="one width, and as many inputs, in every text",
                    do="give caches of the same models and layers for each text",
                )
            self.shapes[name] = jax.ShapeDtypeStruct((len(form), form[0]), self._dtype)
        both = [[*x, *(targets[i] if targets else ())] for i, x in enumerate(texts)]
        self.rows = min(common_rows(caches) for caches in both)

    def next(self) -> Chunk:
        """The next chunk; the last one may hold fewer rows.

        Raises:
            StopIteration: a text has ended.
        """
        start, stop = self._at, min(self._at + self._each, self.rows)
        if start >= stop:
            raise StopIteration
        self._at = stop
        rows = {name: self._chunk(part, start, stop) for name, part in self._parts.items()}
        keep = np.arange(self.size) < (stop - start) * len(self._parts["x"])
        return Chunk(rows, keep)

    def _chunk(self, part: Sequence[Sequence[ActivationCache]], start: int, stop: int):
        # [texts, n, inputs, d] -> [n * texts, inputs, d]
        stacked = [np.stack([c.read(start, stop) for c in caches], axis=1) for caches in part]
        rows = np.stack(stacked, axis=1).reshape(-1, *stacked[0].shape[1:])
        padded = np.zeros((self.size, *rows.shape[1:]), self._dtype)
        padded[: len(rows)] = rows.astype(self._dtype)
        return jnp.asarray(padded)

    def cursor(self) -> Any:
        """Where it stands."""
        return {"row": self._at}

    def seek(self, cursor: Any) -> None:
        """Puts it there."""
        self._at = int(cursor["row"])
