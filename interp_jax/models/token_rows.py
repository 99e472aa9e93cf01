"""Rows of tokens from an endless or a finite text, and the place in it to come back to.

What trains (dictionaries, fine-tuning) takes a `Stream` and does not ask where its text is from;
`text` makes them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np


class TokenRows(NamedTuple):
    """B rows of T tokens.

    Attributes:
        tokens: int32 [B, T].
        valid: bool [B, T]; false for padding, which stands at the end of a row.
        roles: int8 [B, T]; see `roles`.
    """

    tokens: np.ndarray
    valid: np.ndarray
    roles: np.ndarray


class Stream(Protocol):
    """Rows of tokens in an order that a cursor can be put back into."""

    def next(self, batch: int) -> TokenRows:
        """The next `batch` rows. Raises StopIteration when there are fewer left."""

    def cursor(self) -> Any:
        """Where the stream stands: JSON values, or a dataclass of them."""

    def seek(self, cursor: Any) -> None:
        """Puts the stream to where `cursor` was taken, from this stream or an equal one.

        `cursor` is as `cursor()` gave it, also after a trip through JSON.
        """


def cursor_values(stream: Stream) -> Any:
    """Where the stream stands, as JSON values."""
    found = stream.cursor()
    return dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found


def put_back(stream: Stream, values: Any) -> None:
    """Puts the stream where `cursor_values` found it."""
    kind = type(stream.cursor())
    stream.seek(kind(**values) if dataclasses.is_dataclass(kind) else values)
