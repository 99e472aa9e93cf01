"""Attention suppression as an operand: how much of each key is kept, for whom.

Both attention paths take a tuple of these and add them to the score, after any soft-cap and
before the softmax. Keeping a share `1 - s` of a key's weight (before the softmax renormalises)
is adding `log(1 - s)`; a share of zero is `-inf`, a hard mask.
"""

from __future__ import annotations

from typing import NamedTuple

import jax


class Suppression(NamedTuple):
    """One suppression of keys, seen only by some queries and heads.

    The score of query t, key s and head h in row b becomes
    `score + log_keep[b, s]` where `queries[b, t] and heads[h]`, and is untouched elsewhere.

    Attributes:
        queries: bool [B, T], the queries that lose attention.
        heads: bool [H], the query heads that lose attention.
        log_keep: float32 [B, S], log of the share kept: 0 leaves a key alone (same bits),
            -inf removes it. The only leaf with a gradient, which is 0 where it is -inf.
    """

    queries: jax.Array
    heads: jax.Array
    log_keep: jax.Array
