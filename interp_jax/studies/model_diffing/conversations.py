"""Rows of tokens for the study: one conversation or text in each, with its number.

A row is one document, cut at the row's length: intervals draw documents, template statistics
number the turns of a conversation, and a prediction has its own conversation before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.models.batch import Batch
from interp_jax.models.token_rows import TokenRows
from interp_jax.text.stream_sources import open_source
from interp_jax.text.streams import TokenStream


class Rows(NamedTuple):
    """A batch of rows, filled up with empty ones.

    Attributes:
        tokens: int32 [B, T]. valid: bool [B, T]. roles: int8 [B, T].
        documents: int64 [B], number of each row's document in the data; 0 for an empty row.
        cursor: where the data stands after it, as JSON values.
    """

    tokens: np.ndarray
    valid: np.ndarray
    roles: np.ndarray
    documents: np.ndarray
    cursor: Mapping[str, Any]

    def batch(self) -> Batch:
        """As a network takes them."""
        return Batch.make(self.tokens, self.valid, roles=self.roles, packed=True)


def token_rows(
    lm: LanguageModel,
    data: str,
    *,
    rows: int,
    length: int,
    seed: int = 0,
    cursor: Mapping[str, Any] | None = None,
) -> Iterator[Rows]:
    """Batches of rows, once through the data; the last one is filled up.

    Args:
        lm: its tokenizer and chat template.
        data: see `text.stream_sources.open_source`. seed: of puzzles.
        rows: B. length: T; longer documents are cut.
        cursor: of `Rows`, to go on from.

    Raises:
        UserError: what is wrong with the data, by file and line.
    """
    stream = TokenStream(
        open_source(data, seed=seed), lm.tokenizer, length, template=lm.chat_template, pack=False
    )
    number = 0
    if cursor is not None:
        stream.seek(cursor["stream"])
        number = cursor["documents"]
    while held := _some(stream, rows):
        tokens, valid = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
        kinds, documents = np.zeros((rows, length), np.int8), np.zeros(rows, np.int64)
        for row, one in enumerate(held):
            tokens[row], valid[row], kinds[row] = (part[0] for part in one)
        documents[: len(held)] = number + np.arange(len(held))
        number += len(held)
        yield Rows(
            tokens, valid, kinds, documents, {"stream": stream.cursor(), "documents": number}
        )


def _some(stream: TokenStream, rows: int) -> list[TokenRows]:
    """At most `rows` single rows."""
    held: list[TokenRows] = []
    try:
        while len(held) < rows:
            held.append(stream.next(1))
    except StopIteration:
        pass
    return held
