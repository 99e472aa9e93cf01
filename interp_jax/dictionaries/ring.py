"""A ring of activations between the networks and the dictionary: fixed size, index shuffling.

What is drawn is gone, and new rows take its place: every row that was pushed is drawn once or
still there, and none is drawn twice. Rows never move; what is shuffled is a list of their slots.
That list, and where each row came from (which chunk of the source, which row of it), lives on the
host and depends on the key and on how many rows each chunk had, not on the rows' values or on
devices. So a ring can be left out of a checkpoint and read again from its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError

Rows = dict[str, jax.Array]
Place = Literal["device", "host"]


@partial(jax.jit, donate_argnums=0)
def _store(held: Rows, new: Rows, slots: jax.Array) -> Rows:
    """Writes row i of `new` to `slots[i]`; a slot past the end drops the row."""
    put = lambda a, b: a.at[slots].set(b.astype(a.dtype), mode="drop")
    return jax.tree.map(put, held, new)


@jax.jit
def _take(held: Rows, slots: jax.Array) -> Rows:
    return jax.tree.map(lambda a: jnp.take(a, slots, axis=0), held)


class Ring:
    """`capacity` slots for rows of activations; see the module.

    Args:
        capacity: C.
        shapes: name -> what one row is, as a `jax.ShapeDtypeStruct` without the row axis.
        key: typed key that the shuffles are drawn from.
        place: `device` memory, or `host` memory for a ring that is larger than that.
        sharding: of the rows [C, ...] on devices; None: the default device.

    Attributes:
        rows: name -> [C, ...], jax arrays or numpy arrays by `place`.
        order: int32 [C], all slots: first the free ones, then the full ones in the order in
            which they will be drawn.
        free: how many are free.
        origin: int32 [C, 2], chunk and row in the chunk of what a slot holds or last held.
        round: how often it was shuffled.
    """

    def __init__(
        self,
        capacity: int,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        key: jax.Array,
        *,
        place: Place = "device",
        sharding: jax.sharding.Sharding | None = None,
    ):
        if not 0 < capacity < 2**31:
            raise UserError(
                found=f"a ring of {capacity} rows", expected="1 to 2^31 - 1", do="change its size"
            )
        self.capacity, self.place, self._key = capacity, place, key
        zeros = np.zeros if place == "host" else partial(jnp.zeros, device=sharding)
        self.rows: dict[str, Any] = {
            name: zeros((capacity, *one.shape), one.dtype) for name, one in shapes.items()
        }
        self.order = np.arange(capacity, dtype=np.int32)
        self.free = capacity
        self.origin = np.full((capacity, 2), -1, np.int32)
        self.round = 0

    @property
    def full(self) -> int:
        """How many rows wait to be drawn."""
        return self.capacity - self.free

    def push(self, rows: Rows, keep: np.ndarray, chunk: int) -> int:
        """Takes the kept rows of a chunk; they are drawn after those that are there already.

        Args:
            rows: name -> [N, ...].
            keep: bool [N].
            chunk: its number, which `origin` remembers.

        Returns:
            how many rows were kept.

        Raises:
            UserError: they do not all fit, or have other names. Nothing is taken then.
        """
        if set(rows) != set(self.rows):
            raise UserError(
                found=f"rows {', '.join(sorted(rows))}",
                expected=", ".join(sorted(self.rows)),
                do="push what the ring was made for",
            )
        kept = np.flatnonzero(np.asarray(keep, bool))
        count = len(kept)
        if count > self.free:
            raise UserError(
                found=f"{count} rows for a ring with {self.free} of {self.capacity} slots free",
                expected="as many free slots",
                do="draw before pushing, or take a larger ring",
            )
        # The free slots taken are the first ones; the rest stays first, and what was full before
        # stays before what is new.
        slots = self.order[:count].copy()
        self.order = np.concatenate([self.order[count:], slots])
        self.free -= count
        self.origin[slots] = np.stack([np.full(count, chunk, np.int32), kept], axis=1)
        self._write(rows, slots, kept, len(keep))
        return count

    def shuffle(self) -> None:
        """Draws a new order of what is there."""
        noise = jax.random.bits(keys.fold(self._key, "ring", self.round), (self.capacity,))
        full = self.order[self.free :]
        self.order[self.free :] = full[np.argsort(np.asarray(noise)[full], kind="stable")]
        self.round += 1

    def draw(self, count: int) -> Rows:
        """The next `count` rows in order, name -> [count, ...] on devices; their slots are free.

        Raises:
            UserError: there are fewer.
        """
        if count > self.full:
            raise UserError(
                found=f"{self.full} rows in the ring", expected=f"at least {count}", do="push some"
            )
        drawn = self.read(self.order[self.free : self.free + count])
        self.free += count
        return drawn

    def read(self, slots: np.ndarray) -> Rows:
        """What is in some slots, int [n], without drawing it: name -> [n, ...] on devices."""
        if self.place == "host":
            return {name: jnp.asarray(held[slots]) for name, held in self.rows.items()}
        return _take(self.rows, np.asarray(slots, np.int32))

    def _write(self, rows: Rows, slots: np.ndarray, kept: np.ndarray, length: int) -> None:
        if self.place == "host":
            for name, held in self.rows.items():
                held[slots] = np.asarray(rows[name])[kept].astype(held.dtype)
            return
        # One program for every number of kept rows: the others go past the end.
        target = np.full(length, self.capacity, np.int32)
        target[kept] = slots
        self.rows = _store(self.rows, rows, target)

    # What a checkpoint holds, and how a ring comes back.

    def tree(self, *, rows: bool) -> dict[str, Any]:
        """The ring as a tree of arrays, with what it holds or without."""
        tree: dict[str, Any] = {
            "order": self.order.copy(),
            "free": np.asarray(self.free, np.int32),
            "origin": self.origin.copy(),
            "round": np.asarray(self.round, np.int32),
        }
        return tree | ({"rows": dict(self.rows)} if rows else {})

    def load(self, tree: Mapping[str, Any]) -> None:
        """The inverse of `tree`. Without rows, `rewrite` every chunk of `live_chunks` then."""
        self.order = np.array(tree["order"], np.int32)
        self.free, self.round = int(tree["free"]), int(tree["round"])
        self.origin = np.array(tree["origin"], np.int32)
        if "rows" in tree:
            self.rows = dict(tree["rows"])

    def live_chunks(self) -> list[int]:
        """Numbers of the chunks that some row comes from which waits to be drawn, ascending."""
        return np.unique(self.origin[self.order[self.free :], 0]).tolist()

    def rewrite(self, rows: Rows, keep: np.ndarray, chunk: int) -> None:
        """Puts a chunk's rows, read again, where those that wait to be drawn were.

        Raises:
            UserError: the chunk kept other rows than before.
        """
        slots = self.order[self.free :]
        slots = slots[self.origin[slots, 0] == chunk]
        kept = self.origin[slots, 1]
        if np.any(kept >= len(keep)) or not np.all(np.asarray(keep, bool)[kept]):
            raise UserError(
                found=f"other rows in chunk {chunk} of the source than when it was first read",
                expected="the same source",
                do="give the same data and exclusions, or start anew in another workdir",
            )
        self._write(rows, slots, kept, len(keep))
