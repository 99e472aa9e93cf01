"""Batches of shuffled rows: a source read through a ring, with a place to come back to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from interp_jax.dictionaries.ring import Ring, Rows
from interp_jax.dictionaries.row_source import RowSource
from interp_jax.runtime.errors import UserError

_EMPTY = 1000  # chunks in a row without anything to keep, after which the data is refused


class Feed:
    """Rows of a source in random order, each once per epoch.

    The ring is filled while a whole chunk fits, and shuffled; a share of it is drawn; then it is
    filled again. At the end of the data what is left is drawn too, less a last part of a batch.

    Args:
        source: where rows come from, standing at the start of the data.
        ring: empty, of the source's shapes.
        batch: rows of one `draw`.
        refill: share of the ring that is drawn between two fillings; 1: all of it.
        epochs: how often the source is gone through.
    """

    def __init__(
        self, source: RowSource, ring: Ring, batch: int, *, refill: float = 0.5, epochs: int = 1
    ):
        if ring.capacity < source.size + batch:
            raise UserError(
                found=f"a ring of {ring.capacity} rows",
                expected=f"at least {source.size} (a chunk) + {batch} (a batch)",
                do="take a larger ring, or smaller chunks",
            )
        self.source, self.ring, self.batch = source, ring, batch
        self._refill, self._epochs = refill, epochs
        self._start = source.cursor()
        self._cursors: dict[int, Any] = {}  # chunk number -> where the source stood before it
        self._chunk = self._epoch = self._left = self._kept = 0
        self._ended = False

    def draw(self) -> Rows:
        """The next batch, name -> [batch, ...].

        Raises:
            UserError: the data has ended, or there is nothing in it to keep.
        """
        self.fill()
        self._left -= self.batch
        return self.ring.draw(self.batch)

    def fill(self) -> None:
        """Makes sure that a batch can be drawn; `draw` does it by itself."""
        if self._left >= self.batch:
            return
        empty = 0
        while not self._ended and self.ring.free >= self.source.size:
            before = self.source.cursor()
            try:
                chunk = self.source.next()
            except StopIteration:
                self._next_epoch()
                continue
            self._cursors[self._chunk] = before
            count = self.ring.push(chunk.rows, chunk.keep, self._chunk)
            self._chunk += 1
            self._kept += count
            empty = 0 if count else empty + 1
            if empty >= _EMPTY:
                raise self._nothing()
        live = set(self.ring.live_chunks())
        self._cursors = {n: c for n, c in self._cursors.items() if n in live}
        self.ring.shuffle()
        share = 1.0 if self._ended else self._refill
        self._left = int(self.ring.full * share) // self.batch * self.batch
        self._left = max(self._left, self.batch)
        if self.ring.full < self.batch:
            raise UserError(
                found=f"data that ended, with {self.ring.full} rows left, after {self._kept} rows "
                f"in {self._epoch} epochs",
                expected=f"enough for another step of {self.batch} rows",
                do="give more text, or raise --epochs, or lower --steps",
            )

    def first_rows(self, count: int, block: int = 4096) -> Iterator[Rows]:
        """The first rows that were pushed and still wait, in that order, in blocks.

        Raises:
            UserError: there are fewer than `count`.
        """
        slots = self.ring.order[self.ring.free :]
        if len(slots) < count:
            raise UserError(
                found=f"{len(slots)} rows in the ring", expected=f"at least {count}",
                do="give more text, or ask for fewer rows",
            )  # fmt: skip
        chunk, row = self.ring.origin[slots].T
        first = slots[np.lexsort((row, chunk))][:count]
        for begin in range(0, count, block):
            yield self.ring.read(first[begin : begin + block])

    def peek(self) -> Rows:
        """The batch that `draw` will give next, without drawing it."""
        self.fill()
        ring = self.ring
        return ring.read(ring.order[ring.free : ring.free + self.batch])

    def _next_epoch(self) -> None:
        if not self._kept:
            raise self._nothing()
        self._epoch += 1
        self._ended = self._epoch >= self._epochs
        if not self._ended:
            self.source.seek(self._start)

    def _nothing(self) -> UserError:
        return UserError(
            found="data in which no token is kept",
            expected="some",
            do="exclude less, or check that the text has the roles and lengths that you expect",
        )

    def tree(self, *, rows: bool) -> dict[str, Any]:
        """Arrays of a checkpoint: the ring and the counters."""
        counters = [self._chunk, self._epoch, self._left, self._kept, int(self._ended)]
        return {"ring": self.ring.tree(rows=rows), "counters": np.asarray(counters, np.int64)}

    def extra(self) -> dict[str, Any]:
        """JSON values of a checkpoint: where the source stands, and stood before live chunks."""
        chunks = [[number, cursor] for number, cursor in self._cursors.items()]
        return {"cursor": self.source.cursor(), "chunks": chunks}

    def load(self, tree: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Goes back to a checkpoint. A ring saved without its rows is read again.

        Raises:
            UserError: the source gives other rows than it did.
        """
        self.ring.load(tree["ring"])
        numbers = [int(n) for n in tree["counters"]]
        self._chunk, self._epoch, self._left, self._kept = numbers[:4]
        self._ended = bool(numbers[4])
        self._cursors = {int(number): cursor for number, cursor in extra["chunks"]}
        if "rows" not in tree["ring"]:
            for number in self.ring.live_chunks():
                self.source.seek(self._cursors[number])
                try:
                    chunk = self.source.next()
                except StopIteration:
                    raise UserError(
                        found="data that is shorter than when it was first read",
                        expected="the same data", do="give the same data again",
                    ) from None  # fmt: skip
                self.ring.rewrite(chunk.rows, chunk.keep, number)
        self.source.seek(extra["cursor"])
