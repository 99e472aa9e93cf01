"""Rows of tokens from a source of documents, with a cursor for exact resume.

Packed, documents follow each other, each ended by EOS, and are cut into rows of T: nothing is
lost, a row may hold several documents or a part of one, and a token sees all of its row before
it, other documents too. Positions count over the row. Only the very last row is padded.
Unpacked, each row is one document, cut at T and padded.

Shuffling is local, as in the crosscoder paper's code (section 4.2): so many documents are read,
permuted, and used up before the next are read. A cursor is therefore a place in the source and
two numbers, and no document leaves its block.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from interp_jax.generation.prompts import make_prompt
from interp_jax.models import roles
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.token_rows import TokenRows
from interp_jax.models.tokenizer import Tokenizer
from interp_jax.runtime.errors import UserError
from interp_jax.text.stream_sources import Document, Place, Source

#: JSON values that say where a stream stands.
Cursor = dict[str, Any]
#: Token ids int32 [n] and their roles int8 [n], n up to the row's length.
Row = tuple[np.ndarray, np.ndarray]


class RowStream(ABC):
    """A `models.token_rows.Stream` over rows that come one by one.

    Args:
        length: T, tokens of a row.
        shard: (process, processes). Every process reads the whole stream; of `processes * B` rows
            that make up one batch, this one's `next(B)` gives its B, in order. Put together, the
            processes have what one process would get from `next(processes * B)`.

    Raises:
        UserError: a length below 2, or a process that is none of them.
    """

    def __init__(self, length: int, shard: tuple[int, int] = (0, 1)):
        if length < 2:
            raise UserError(found=f"rows of {length}", expected="2 tokens or more",
                            do="raise the length")  # fmt: skip
        if not 0 <= shard[0] < shard[1]:
            raise UserError(
                found=f"process {shard[0]} of {shard[1]}", expected="a number below the count",
                do="give (jax.process_index(), jax.process_count())",
            )
        self.length, self.shard = length, shard

    def next(self, batch: int) -> TokenRows:
        """The next `batch` rows of this process.

        Raises:
            StopIteration: there are fewer left (of all processes together).
            UserError: what is wrong with the data, by file and line.
        """
        process, processes = self.shard
        rows = [self._row() for _ in range(processes * batch)]
        return _stacked(rows[process * batch : (process + 1) * batch], self.length)

    @abstractmethod
    def cursor(self) -> Cursor:
        """Where the stream stands, as JSON values."""

    @abstractmethod
    def seek(self, cursor: Mapping[str, Any]) -> None:
        """Puts the stream where `cursor` was taken.

        Raises:
            UserError: it was taken from another stream.
        """

    @abstractmethod
    def _row(self) -> Row:
        """The next row; StopIteration at the end."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """A digest of all that decides the rows and their order."""

    def _check(self, cursor: Mapping[str, Any]) -> None:
        if cursor.get("stream") != self.identity:
            raise UserError(
                found="a cursor of another stream",
                expected="the same data, tokenizer, length, packing and seed",
                do="make the stream as it was made when the cursor was taken",
            )


class TokenStream(RowStream):
    """Rows of one source; see the module.

    Texts are given what the tokenizer puts around a text (BOS), and count as a user's words;
    chats go through the template and have the roles of their messages. The EOS between packed
    documents is template.

    Args:
        source: where documents come from.
        tokenizer: of the model.
        length: T, tokens of a row.
        template: of the model, for chats.
        pack: whether documents share rows.
        epochs: how often the source is gone through; None: without end.
        shuffle: documents of a block that is permuted, anew in each epoch; 0: the source's order.
        seed: of the permutations.
        assistant_control: assistant messages are a model's own output, in which the spelling of a
            control token (`<think>`) means the token.
        shard: see `RowStream`.

    Raises:
        UserError: packing for a tokenizer without EOS, or numbers out of range.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        length: int,
        *,
        template: ChatTemplate | None = None,
        pack: bool = True,
        epochs: int | None = 1,
        shuffle: int = 0,
        seed: int = 0,
        assistant_control: bool = False,
        shard: tuple[int, int] = (0, 1),
    ):
        super().__init__(length, shard)
        if pack and tokenizer.special.eos is None:
            raise UserError(
                found="packing with a tokenizer without an EOS token", expected="one",
                do="use pack=False",
            )
        if shuffle < 0 or (epochs is not None and epochs < 1):
            raise UserError(
                found=f"{epochs} epochs and blocks of {shuffle}",
                expected="at least one epoch, and blocks of 0 or more", do="correct them",
            )
        self.source, self.tokenizer, self.template = source, tokenizer, template
        self._pack, self._epochs, self._shuffle = pack, epochs, shuffle
        self._seed, self._assistant_control = seed, assistant_control
        self._stand(0, [], 0, 0)

    @property
    def identity(self) -> str:
        """See `RowStream`; the number of epochs does not count."""
        template = None if self.template is None else self.template.source
        parts = [self.source.name, self.tokenizer.fingerprint, template, self.length, self._pack,
                 self._shuffle, self._seed, self._assistant_control]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def cursor(self) -> Cursor:
        """See `RowStream`: epoch, the block's place, a document of it, and a token of that."""
        return {
            "stream": self.identity, "epoch": self._epoch, "block": list(self._place),
            "document": self._document, "token": self._token,
        }  # fmt: skip

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """See `RowStream`."""
        self._check(cursor)
        self._stand(cursor["epoch"], cursor["block"], cursor["document"], cursor["token"])

    def _stand(self, epoch: int, place: Place, document: int, token: int) -> None:
        self._epoch, self._place = epoch, list(place)
        self._document, self._token = document, token
        self._after = self._place
        self._reader: Iterator[tuple[Document, Place]] | None = None
        self._block: list[Document] | None = None
        self._current: Row | None = None

    def _row(self) -> Row:
        if not self._pack:
            ids, kinds = self._tokens()
            self._step(len(ids))
            return ids[: self.length], kinds[: self.length]
        parts: list[Row] = []
        room = self.length
        while room:
            try:
                ids, kinds = self._tokens()
            except StopIteration:
                if not parts:
                    raise
                break
            cut = slice(self._token, self._token + room)
            parts.append((ids[cut], kinds[cut]))
            room -= len(parts[-1][0])
            self._step(len(parts[-1][0]))
        ids, kinds = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(kinds)

    def _step(self, tokens: int) -> None:
        """Goes on by so many tokens of the current document."""
        assert self._current is not None
        self._token += tokens
        if self._token == len(self._current[0]):
            self._document, self._token, self._current = self._document + 1, 0, None

    def _tokens(self) -> Row:
        """All tokens of the current document."""
        if self._current is None:
            while self._block is None or self._document >= len(self._block):
                self._next_block()
            self._current = self._encode(self._block[self._document])
        return self._current

    def _next_block(self) -> None:
        """Reads the block at hand (after a seek) or the one after it; at the end, an epoch on."""
        if self._epochs is not None and self._epoch >= self._epochs:
            raise StopIteration
        if self._block is not None:
            self._place, self._document = self._after, 0
        if self._reader is None:
            self._reader = self.source.read(self._place)
        block: list[Document] = []
        for document, after in self._reader:
            block.append(document)
            self._after = after
            if len(block) == max(self._shuffle, 1):
                break
        if not block:
            if not self._place:
                raise UserError(
                    found=f"nothing in {self.source.name}", expected="at least one document",
                    do="give other data",
                )
            self._stand(self._epoch + 1, [], 0, 0)
        elif self._shuffle:
            rng = np.random.default_rng([self._seed, self._epoch, *self._place])
            self._block = [block[i] for i in rng.permutation(len(block))]
        else:
            self._block = block

    def _encode(self, document: Document) -> Row:
        if isinstance(document, str):
            made: Any = make_prompt(document, self.tokenizer, None, chat=False)
        elif self.template is None:
            raise UserError(
                found=f"messages in {self.source.name}, and no chat template",
                expected="texts, or a model with a template", do="give the template",
            )
        else:
            made = self.template.encode(
                self.tokenizer, document, assistant_control=self._assistant_control
            )
        ids, kinds = made.ids, made.roles
        if self._pack:
            ids = np.append(ids, np.int32(self.tokenizer.special.eos))
            kinds = np.append(kinds, np.int8(roles.TEMPLATE))
        return ids, kinds


def _stacked(rows: list[Row], length: int) -> TokenRows:
    shape = (len(rows), length)
    tokens, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
    kinds = np.zeros(shape, np.int8)
    for place, (ids, own) in enumerate(rows):
        tokens[place, : len(ids)], kinds[place, : len(ids)] = ids, own
        valid[place, : len(ids)] = True
    return TokenRows(tokens, valid, kinds)
