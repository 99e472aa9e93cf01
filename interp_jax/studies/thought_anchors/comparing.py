"""Next-token distributions compared position by position, without ever holding all logits.

Rows of streams are projected onto the vocabulary, a few positions and a slice of the words at a
time; row 0 is what the others are compared with. How two distributions are compared is a choice:
`exact_kl.ExactKL`, or one of the truncated forms that published numbers were made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from interp_jax.models.decoder import Decoder
from interp_jax.studies.thought_anchors.vocabulary import through_vocabulary

# Positions of each row that are compared at once, at most.
_POSITIONS, _POSITIONS_ELSEWHERE = {"cpu": 64}, 256
_BASE_POSITIONS, _BASE_WORDS = 512, 2048


class Base(NamedTuple):
    """What is known of the distributions of row 0 at L positions.

    Attributes:
        lse: float32 [L]; log-sum-exp of logits over temperature.
        mean: float32 [L, D]; the vectors of the words, in the mean over their probabilities: the
            gradient of `lse` by the stream, times the temperature.
    """

    lse: jax.Array
    mean: jax.Array


class Comparison(Protocol):
    """How distributions are compared; hashable, so that it decides the compiled program.

    Attributes:
        words: of the vocabulary that are added at once, on a CPU.
        needs_base: whether `Base` is given; else None.
    """

    words: int
    needs_base: bool

    def start(self, streams: jax.Array, vocabulary: int) -> Any:
        """What nothing has been added to, for streams [R, C, D]."""

    def add(
        self, carry: Any, logits: jax.Array, first: jax.Array, shift: jax.Array,
        base: Base | None, temperature: jax.Array,
    ) -> Any:
        """Adds logits, float32 [R, C, v], of the words from id `first` on.

        Args:
            shift: float32 [R, C]; by how much logits over temperature of row 0 are above those of
                a row, in the mean over row 0's probabilities; 0 without a base.
        """

    def finish(
        self, carry: Any, shift: jax.Array, base: Base | None, temperature: jax.Array
    ) -> Any:
        """Arrays float32 [R, C]: each row against row 0."""


def compared_streams(
    network: Decoder, streams: Sequence[jax.Array] | jax.Array, count: jax.Array,
    temperature: jax.Array, comparison: Comparison, begins: jax.Array | None = None,
    base: Base | None = None,
) -> Any:
    """Compares each row with row 0, at every position.

    Rows go through one product together: where their streams have the same bits, so have their
    logits.

    Args:
        network: whose head is used.
        streams: R rows [L, D] after the final norm.
        count: int32 []; rows after this many come out as 0.
        temperature: float32 [].
        begins: int32 [R], best ascending: columns before which a row is known to be row 0's, so
            that nothing need be computed and 0 comes out; None: nothing is known.
        base: of row 0, or of a row that differs from it by rounding; None to make it here.

    Returns:
        What `comparison.finish` gives, with axes [R, L].
    """
    streams = jnp.stack(list(streams))
    rows, length, _ = streams.shape
    if not comparison.needs_base:
        base = None
    elif base is None:
        base = base_of(network, streams[0], temperature)
    most = _POSITIONS.get(jax.default_backend(), _POSITIONS_ELSEWHERE)
    size = -(-length // -(-length // most))
    # Filled up at the left, where the fewest rows have begun.
    fill = -length % size
    cut = lambda a: jnp.pad(a, ((fill, 0), *[(0, 0)] * (a.ndim - 1))).reshape(
        -1, size, *a.shape[1:]
    )
    parts = jax.vmap(cut, out_axes=1)(streams)

    # Of a part's rows, how many from the first are to be computed.
    ends = size * jnp.arange(1, len(parts) + 1, dtype=jnp.int32) - fill
    counts = jnp.broadcast_to(count, ends.shape)
    if begins is not None:
        places = jnp.arange(1, rows + 1, dtype=jnp.int32)
        reached = jnp.where(begins[None] < ends[:, None], places[None], 0)
        counts = jnp.minimum(counts, jnp.max(reached, axis=1))

    def first_rows(rows_now: int, part: jax.Array, base: Base | None, count: jax.Array) -> Any:
        own = part[:rows_now]
        shift = jnp.zeros(own.shape[:2], jnp.float32)
        if base is not None:
            shift = jnp.einsum("rcd,cd->rc", own[:1] - own, base.mean) / temperature
        add = lambda carry, logits, first, _: comparison.add(
            carry, logits, first, shift, base, temperature
        )
        carry = comparison.start(own, network.config.vocab_size)
        carry = through_vocabulary(network, own, carry, comparison.words, add)
        found = comparison.finish(carry, shift, base, temperature)
        there = jnp.arange(rows_now)[:, None] < count
        return jax.tree.map(
            lambda a: jnp.pad(jnp.where(there, a, 0), ((0, rows - rows_now), (0, 0))), found
        )

    # A program for each third of the rows: one for each number would be long to compile.
    thirds = sorted({-(-rows * n // 3) for n in (1, 2, 3)})
    ways = [lambda *given, n=n: first_rows(n, *given) for n in thirds]
    nothing = jax.eval_shape(ways[0], parts[0], jax.tree.map(lambda a: cut(a)[0], base), count)
    ways.insert(0, lambda *_: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), nothing))

    def one(of: tuple[jax.Array, Base | None, jax.Array]) -> Any:
        part, base, count = of
        way = jnp.sum(count > jnp.asarray([0, *thirds[:-1]], jnp.int32))
        return jax.lax.switch(way, ways, part, base, count)

    whole = jax.lax.map(one, (parts, jax.tree.map(cut, base), counts))
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(rows, -1)[:, fill:], whole)


@jax.jit
def base_of(network: Decoder, stream: jax.Array, temperature: jax.Array) -> Base:
    """Of a stream [L, D] after the final norm."""
    length, width = stream.shape
    size = min(length, _BASE_POSITIONS)

    def add(carry: tuple, logits: jax.Array, _: jax.Array, words: jax.Array) -> tuple:
        top, total, mean = carry
        scores = logits / temperature
        new = jnp.maximum(top, jnp.max(scores, axis=-1))
        shrink, weights = jnp.exp(top - new), jnp.exp(scores - new[:, None])
        mixed = jnp.einsum(
            "lv,vd->ld" if network.head is None else "lv,dv->ld", weights.astype(words.dtype),
            words, preferred_element_type=mean.dtype,
        )
        total = total * shrink + jnp.sum(weights, axis=-1)
        return new, total, mean * shrink[:, None] + mixed

    def part(stream: jax.Array) -> Base:
        nothing = jnp.zeros(size, jnp.float32)
        start = (nothing - jnp.inf, nothing, jnp.zeros((size, width), jnp.float32))
        top, total, mean = through_vocabulary(network, stream, start, _BASE_WORDS, add)
        return Base(top + jnp.log(total), mean / total[:, None])

    parts = jnp.pad(stream, ((0, -length % size), (0, 0))).reshape(-1, size, width)
    found = jax.lax.map(part, parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], found)
