"""A stream of random tokens for tests: rows of different lengths, roles, and a cursor."""

from __future__ import annotations

import numpy as np

from interp_jax.models.token_rows import TokenRows


class RandomTokens:
    """Rows [B, T] whose lengths run from T/2 to T; the first token is `bos`."""

    def __init__(self, vocabulary: int, length: int, rows: int | None = None, bos: int = 1):
        self.vocabulary, self.length, self.rows, self.bos = vocabulary, length, rows, bos
        self._at = 0

    def next(self, batch: int) -> TokenRows:
        if self.rows is not None and self._at + batch > self.rows:
            raise StopIteration
        shape = (batch, self.length)
        tokens, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
        roles = np.zeros(shape, np.int8)
        for row in range(batch):
            rng = np.random.default_rng([5, self._at + row])
            count = int(rng.integers(self.length // 2, self.length + 1))
            tokens[row, :count] = rng.integers(2, self.vocabulary, count)
            tokens[row, 0], valid[row, :count] = self.bos, True
            roles[row] = rng.integers(0, 3, self.length)
        self._at += batch
        return TokenRows(tokens, valid, roles)

    def cursor(self):
        return {"row": self._at}

    def seek(self, cursor):
        self._at = cursor["row"]
