"""Several streams as one, row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from interp_jax.models.tokenizer import Tokenizer
from interp_jax.runtime.errors import UserError
from interp_jax.text.stream_sources import open_source
from interp_jax.text.streams import Cursor, Row, RowStream, TokenStream


class MixedStream(RowStream):
    """Rows of several streams in turn; ends when the stream whose turn it is has ended.

    By default strictly in turn: web, chat, web, chat, as the crosscoder paper's code interleaves
    its two sources (section 4.2). With packed streams every even batch is then half of each, to
    the token. With `shares`, the next row is of the stream that is furthest behind its share of
    the tokens so far (of equals, the first), however long its rows are.

    Args:
        streams: two or more, of one length, each with `shard=(0, 1)`.
        shares: positive, one for each stream, in any unit; None: strictly in turn.
        shard: see `RowStream`.

    Raises:
        UserError: streams that do not fit together, or shares that are not positive.
    """

    def __init__(
        self,
        streams: Sequence[RowStream],
        *,
        shares: Sequence[float] | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        if len(streams) < 2 or len({stream.length for stream in streams}) != 1:
            raise UserError(
                found=f"streams of lengths {[stream.length for stream in streams]}",
                expected="two or more of one length", do="make them alike",
            )
        if any(stream.shard != (0, 1) for stream in streams):
            raise UserError(
                found="a mixed stream of parts that are sharded",
                expected="parts with shard=(0, 1)", do="give shard to the mixed stream alone",
            )
        if shares is not None and (len(shares) != len(streams) or min(shares) <= 0):
            raise UserError(
                found=f"shares {list(shares)} of {len(streams)} streams",
                expected="one positive number for each", do="leave out what has no share",
            )
        super().__init__(streams[0].length, shard)
        self.streams = tuple(streams)
        self._shares = None if shares is None else [float(s) / sum(shares) for s in shares]
        self._rows, self._counts = 0, [0] * len(streams)

    @property
    def identity(self) -> str:
        """See `RowStream`."""
        parts = [[stream.identity for stream in self.streams], self._shares]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Tokens of each stream so far."""
        return tuple(self._counts)

    def cursor(self) -> Cursor:
        """See `RowStream`: rows and tokens so far, and the cursor of each stream."""
        return {
            "stream": self.identity, "rows": self._rows, "counts": list(self._counts),
            "parts": [stream.cursor() for stream in self.streams],
        }  # fmt: skip

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """See `RowStream`."""
        self._check(cursor)
        self._rows, self._counts = cursor["rows"], list(cursor["counts"])
        for stream, own in zip(self.streams, cursor["parts"], strict=True):
            stream.seek(own)

    def _row(self) -> Row:
        turn = self._turn()
        ids, kinds = self.streams[turn]._row()
        self._rows += 1
        self._counts[turn] += len(ids)
        return ids, kinds

    def _turn(self) -> int:
        if self._shares is None:
            return self._rows % len(self.streams)
        total = sum(self._counts)
        behind = [s * total - n for s, n in zip(self._shares, self._counts, strict=True)]
        return behind.index(max(behind))


def open_streams(
    names: Sequence[str], tokenizer: Tokenizer, length: int, *, seed: int = 0,
    text_field: str = "text", messages_field: str = "messages", **options: Any,
) -> RowStream:
    """Rows of what is named, mixed strictly in turn where there are several.

    Args:
        names: as `open_source` takes them.
        length: T, tokens of a row.
        seed: of generated sources and of shuffling.
        text_field, messages_field: of records.
        options: of `TokenStream`: `template`, `pack`, `shuffle`, `epochs`.
    """
    fields = {"text_field": text_field, "messages_field": messages_field}
    parts = [
        TokenStream(open_source(name, seed=seed, **fields), tokenizer, length, seed=seed, **options)
        for name in names
    ]
    return parts[0] if len(parts) == 1 else MixedStream(parts)
