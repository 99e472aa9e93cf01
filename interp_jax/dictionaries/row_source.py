"""Where the rows of a ring come from: networks that run on a stream of tokens.

A source hands out chunks of one size with a mask of what to keep, and can be put back to where it
was. The other source, a cache on disk, is `cache_source`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.harvest import Harvest, harvest, keep_mask, row_shapes
from interp_jax.dictionaries.replaced_tokens import require_replaceable
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.token_rows import Stream, TokenRows
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.mesh import named_sharding


class Chunk(NamedTuple):
    """Rows of a source.

    Attributes:
        rows: name -> [N, ...].
        keep: bool [N].
    """

    rows: dict[str, Any]
    keep: np.ndarray


class RowSource(Protocol):
    """Rows in chunks.

    Attributes:
        size: N, rows in every chunk.
        shapes: name -> one row.
    """

    size: int
    shapes: dict[str, jax.ShapeDtypeStruct]

    def next(self) -> Chunk:
        """The next chunk. Raises StopIteration at the end."""

    def cursor(self) -> Any:
        """Where it stands, as JSON values."""

    def seek(self, cursor: Any) -> None:
        """Puts it where `cursor` was taken."""


@partial(jax.jit, static_argnames=("what",))
def harvest_rows(networks: tuple[Decoder, ...], batch: Batch, what: Harvest) -> dict:
    """`harvest` as one compiled program: name -> [B*T, ...]."""
    found = harvest(networks, batch, what)._asdict()
    return {name: rows for name, rows in found.items() if rows is not None}


class HarvestSource:
    """Activations of networks on a stream of tokens.

    With many processes each reads the whole stream and runs its part of every batch.

    Args:
        networks: as for `harvest`.
        stream: rows of tokens.
        what: what is read.
        batch: B, rows of tokens at once.
        length: T, tokens of a row, as the stream makes them.
        mesh: the batch is cut along its `data` axis; None: the default device.

    Raises:
        UserError: as `harvest`, or replaced tokens that are no network's.
    """

    def __init__(
        self,
        networks: Sequence[Decoder],
        stream: Stream,
        what: Harvest,
        batch: int,
        length: int,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.networks, self.stream, self.what = tuple(networks), stream, what
        self._shape, self._mesh = (batch, length), mesh
        self.size = batch * length
        self._vocabulary = min(network.config.vocab_size for network in self.networks)
        require_replaceable(what.replace_tokens, self._vocabulary)
        self.shapes = row_shapes(self.networks, what)

    def next(self) -> Chunk:
        """Runs the networks on the next rows of the stream.

        Raises:
            StopIteration: the stream has ended.
            UserError: the stream's rows are of another shape, or a token is no network's.
        """
        return self.next_with_tokens()[0]

    def next_with_tokens(self) -> tuple[Chunk, TokenRows]:
        """As `next`, with the tokens that the rows belong to, row b*T + t to token t of row b."""
        rows = self.stream.next(self._shape[0])
        self._check(rows)
        keep = keep_mask(self.what, rows.tokens, rows.valid, rows.roles)
        batch = self.place(Batch.make(rows.tokens, rows.valid, roles=rows.roles))
        return Chunk(harvest_rows(self.networks, batch, self.what), keep.reshape(-1)), rows

    def place(self, batch: Batch) -> Batch:
        """The batch on the mesh, rows cut along `data`."""
        if self._mesh is None:
            return batch
        cut = lambda leaf: named_sharding("BT"[: leaf.ndim], self._mesh)
        return jax.tree.map(lambda leaf: jax.device_put(leaf, cut(leaf)), batch)

    def example(self) -> tuple[tuple[Decoder, ...], Batch, Harvest]:
        """Arguments of `harvest_rows` as `next` gives them, of zeros."""
        tokens = jnp.zeros(self._shape, jnp.int32)
        return self.networks, self.place(Batch.make(tokens)), self.what

    def cursor(self) -> Any:
        """Where the stream stands, as JSON values."""
        found = self.stream.cursor()
        return dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found

    def seek(self, cursor: Any) -> None:
        """Puts the stream where it stood."""
        kind = type(self.stream.cursor())
        self.stream.seek(kind(**cursor) if dataclasses.is_dataclass(kind) else cursor)

    def _check(self, rows: TokenRows) -> None:
        if rows.tokens.shape != self._shape:
            raise UserError(
                found=f"rows of tokens of shape {rows.tokens.shape}",
                expected=f"{self._shape}",
                do="make the stream with the length that is asked of it",
            )
        if (highest := int(np.max(rows.tokens, initial=0, where=rows.valid))) >= self._vocabulary:
            raise UserError(
                found=f"token {highest}",
                expected=f"ids below {self._vocabulary}, as every network has",
                do="use the tokenizer that belongs to the networks",
            )
