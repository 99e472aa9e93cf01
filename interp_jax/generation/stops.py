"""When a row ends: end-of-sequence tokens on the device, stop strings on the host.

The decode loop checks `StopTokens` at every step. Stop strings live in text, not in tokens, so
the host looks for them in the new text between two chunks of the loop and marks the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.runtime.errors import UserError


@partial(jax.tree_util.register_dataclass, data_fields=["ids"], meta_fields=[])
@dataclass(frozen=True)
class StopTokens:
    """Token ids that end a row.

    Attributes:
        ids: int32 [E]; E may be 0.
    """

    ids: jax.Array

    @classmethod
    def make(cls, ids: int | Iterable[int]) -> StopTokens:
        """From one id or several.

        Raises:
            UserError: a negative id.
        """
        ids = [ids] if isinstance(ids, int) else [int(i) for i in ids]
        if any(i < 0 for i in ids):
            raise UserError(
                found=f"stop tokens {ids}", expected="ids >= 0", do="leave negative ids out"
            )
        return cls(jnp.asarray(ids, jnp.int32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Which of int32 [B] end their row: Bool[B]."""
        return (tokens[:, None] == self.ids[None, :]).any(axis=1)


class StopMatch(NamedTuple):
    """A stop string in a text: characters `start` to `end` (exclusive), and the string."""

    start: int
    end: int
    string: str


class Trimmed(NamedTuple):
    """A row cut at its first stop string, or left as it was (`match` None).

    Attributes:
        tokens: up to and including the token in which the stop string is completed.
        text: up to, and without, the stop string.
        match: where it was.
    """

    tokens: list[int]
    text: str
    match: StopMatch | None


@dataclass(frozen=True)
class StopStrings:
    """Strings that end a row as soon as one of them is complete.

    The first match is the one that is completed first (the longest, if several end there), since
    that is where a reader of the stream would have stopped. It does not depend on how the text
    is cut into chunks.

    Raises:
        UserError: an empty string among them, or a single string given instead of a sequence.
    """

    strings: tuple[str, ...]

    def __post_init__(self):
        if isinstance(self.strings, str) or not all(isinstance(s, str) and s for s in self.strings):
            raise UserError(
                found=f"stop strings {self.strings!r}",
                expected="a sequence of strings that are not empty",
                do="pass a list such as ['\\n\\n']",
            )
        object.__setattr__(self, "strings", tuple(self.strings))

    @property
    def longest(self) -> int:
        """Characters of the longest stop string, 0 without any."""
        return max(map(len, self.strings), default=0)

    def match(self, text: str) -> StopMatch | None:
        """The stop string that is completed first in `text`."""
        found = [
            StopMatch(start, start + len(string), string)
            for string in self.strings
            if (start := text.find(string)) >= 0
        ]
        return min(found, key=lambda m: (m.end, m.start), default=None)

    def first_match(self, text: str) -> int | None:
        """The character at which the first stop string starts, or None."""
        match = self.match(text)
        return None if match is None else match.start

    def trim(self, tokens: Sequence[int], text: str, ends: Sequence[int]) -> Trimmed:
        """Cuts one row at its first stop string.

        Args:
            tokens: the row's generated token ids.
            text: their text.
            ends: for each token, how many characters of `text` are there once it is decoded (the
                second of the tokenizer's offsets), never falling.

        Raises:
            UserError: another number of ends than tokens.
        """
        if len(tokens) != len(ends):
            raise UserError(
                found=f"{len(tokens)} tokens and {len(ends)} character offsets",
                expected="one offset per token",
                do="pass the end of each token in the text",
            )
        match = self.match(text)
        if match is None:
            return Trimmed(list(tokens), text, None)
        last = next((i for i, end in enumerate(ends) if end >= match.end), len(tokens) - 1)
        return Trimmed(list(tokens[: last + 1]), text[: match.start], match)


@dataclass
class StopScanner:
    """Looks for stop strings in one row's text as it grows, also across two pieces of it.

    Only the last `longest - 1` characters are kept between pieces. Feed text that is settled: a
    character whose bytes are not all there yet belongs to the next piece.
    """

    stops: StopStrings
    match: StopMatch | None = None
    _tail: str = field(default="", repr=False)
    _seen: int = field(default=0, repr=False)

    def feed(self, piece: str) -> StopMatch | None:
        """The first match in all text fed so far, in its characters; what follows is ignored."""
        if self.match is None:
            window = self._tail + piece
            offset = self._seen - len(self._tail)
            found = self.stops.match(window)
            if found is not None:
                self.match = StopMatch(found.start + offset, found.end + offset, found.string)
            self._seen += len(piece)
            keep = self.stops.longest - 1
            self._tail = window[-keep:] if keep > 0 else ""
        return self.match
