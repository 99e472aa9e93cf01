"""The most likely tokens of each position, found slice by slice of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

_WIDTH = 16  # words in a block


class TopTokens(NamedTuple):
    """The most likely tokens of each position.

    Attributes:
        ids: int32 [R, C, K], the most likely first; of equal logits the lower id first.
        logits: float32 [R, C, K], -inf where fewer are known yet.
        total: float32 [R, C]; sum over all words of exp((logit - the largest) / temperature).
    """

    ids: jax.Array
    logits: jax.Array
    total: jax.Array

    @classmethod
    def start(cls, streams: jax.Array, count: int) -> TopTokens:
        """No words, for streams [R, C, D]."""
        shape = streams.shape[:2]
        return cls(
            jnp.zeros((*shape, count), jnp.int32),
            jnp.full((*shape, count), -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.float32),
        )

    def add(self, logits: jax.Array, first: jax.Array, temperature: jax.Array) -> TopTokens:
        """With logits [R, C, v] of the words from id `first` on."""
        count = self.ids.shape[-1]
        found, ids = _candidates(logits, count)
        # What stands before in the vocabulary stands before here, which decides between equals.
        found = jnp.concatenate([self.logits, found], axis=-1)
        ids = jnp.concatenate([self.ids, ids + first], axis=-1)
        top, at = _largest(found, count)
        largest = top[..., :1]
        kept = self.total * jnp.exp((self.logits[..., 0] - largest[..., 0]) / temperature)
        added = jnp.sum(jnp.exp((logits - largest) / temperature), axis=-1)
        return TopTokens(jnp.take_along_axis(ids, at, axis=-1), top, kept + added)

    def log_probabilities(self, temperature: jax.Array) -> jax.Array:
        """Float32 [R, C, K]."""
        return (self.logits - self.logits[..., :1]) / temperature - jnp.log(self.total)[..., None]


@dataclass(frozen=True)
class OfTopTokens:
    """What comparisons of the most likely tokens share (`comparing.Comparison`).

    Attributes:
        cap: most tokens kept at a position.
        words, needs_base: see `Comparison`.
    """

    cap: int
    words: int = 12288
    needs_base: bool = False

    def start(self, streams: jax.Array, vocabulary: int) -> TopTokens:
        """No words."""
        return TopTokens.start(streams, min(self.cap, vocabulary))

    def add(self, carry: TopTokens, logits, first, shift, base, temperature) -> TopTokens:
        """See `Comparison`."""
        del shift, base
        return carry.add(logits, first, temperature)


def _candidates(logits: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Logits and ids [..., n], ids ascending, that hold the `count` largest of [..., v].

    These lie in the `count` blocks of the largest maxima, and few numbers are sorted so.
    """
    total = logits.shape[-1]
    if total % _WIDTH or total <= 2 * _WIDTH * count:
        return logits, jnp.broadcast_to(jnp.arange(total, dtype=jnp.int32), logits.shape)
    blocks = logits.reshape(*logits.shape[:-1], -1, _WIDTH)
    _, which = _largest(jnp.max(blocks, axis=-1), count)
    which = jnp.sort(which, axis=-1).astype(jnp.int32)[..., None]
    found = jnp.take_along_axis(blocks, which, axis=-2)
    inside = jax.lax.broadcasted_iota(jnp.int32, found.shape, found.ndim - 1)
    ids = which * _WIDTH + inside
    flat = lambda a: a.reshape(*logits.shape[:-1], count * _WIDTH)
    return flat(found), flat(ids)


def _largest(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    # XLA would move a slice of what comes out into it, see a sort of which several slices are
    # taken, and sort all values: 30 times slower on a CPU.
    return jax.lax.optimization_barrier(jax.lax.top_k(values, count))
