"""What makes each latent active: one streaming pass that keeps a few examples of every latent.

    collection = start(latents, key)
    for batch in batches:
        collection = collect(collection, dictionary.activations(x), tokens, document_ids(tokens))
    examples = finish(collection)

Give the *scaled* code (`Dictionary.activations`), which is what dashboards and statistics show
(crosscoder paper, sections 2.1 and 9.1). Active means above 0. A *passage* is a document's part in
one row of tokens; an example is the peak of a latent in a passage, with its neighbourhood.

Kept for each latent: the strongest examples; a uniform sample of the passages in each *band* of
peak activation; how often it is active, the mean and the largest value; a histogram. Nothing
depends on the order of the data or how it was cut into batches (but for rounding in the mean), and
collections of parts merge into the collection of the whole.

Bands. Where `maxima` are given (of an earlier pass), the bands are the paper's: cut at 0.25, 0.5,
0.75 and 0.95 of the latent's maximum. Without, one pass must do, and the bands are half octaves:
the first holds the largest value seen and reaches from 2^(j/2) to 2^((j+1)/2) for a whole j, the
next ones lie below it, and the last one reaches down to 0. `Examples` has the ends in numbers.

The sample is a reservoir without order: each (passage, latent) has a number drawn by hashing, and
the passages with the smallest numbers are kept.

Cost, for P active pairs in a batch (tokens times active latents): one sort of P on the host, and
arithmetic on P; examples are moved only where one is taken in, which becomes rare. Memory:
F (top + bands x per_band) (8 W + 20) bytes, and F x 1 KiB for the histogram; never [tokens, F].
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from interp_jax.dictionaries.examples_collection import (
    BINS_PER_OCTAVE,
    LAST_KEY,
    LOWEST,
    Collection,
    ExamplePlan,
    bands_of,
    levels_of,
    start,
)
from interp_jax.dictionaries.examples_documents import document_ids, stretch_numbers
from interp_jax.dictionaries.examples_keep import mixed
from interp_jax.dictionaries.examples_pairs import Pairs, Peaks, pairs_of, peaks_of, windows_of
from interp_jax.dictionaries.examples_shown import Examples, Shown, finish
from interp_jax.dictionaries.examples_slots import Slots
from interp_jax.runtime.errors import UserError

__all__ = [
    "Collection", "ExamplePlan", "Examples", "Shown", "collect", "collect_examples",
    "document_ids", "finish", "merge", "start",
]


def collect_examples(
    batches: Iterable[tuple],
    latents: int,
    key: jax.Array,
    plan: ExamplePlan = ExamplePlan(),  # noqa: B008 (frozen)
    maxima: np.ndarray | None = None,
) -> Examples:
    """One pass over `batches` of (code, tokens[, documents[, counted]]), see `collect`."""
    collection = start(latents, key, plan, maxima)
    for batch in batches:
        collection = collect(collection, *batch)
    return finish(collection)


def collect(
    collection: Collection,
    code,
    tokens,
    documents=None,
    counted=None,
) -> Collection:
    """The collection with one more batch in it.

    Args:
        collection: before; given away.
        code: scaled code [B, T, F], or (indices int [B, T, k], values [B, T, k]). A dense one on
            a device is compacted there.
        tokens: int [B, T].
        documents: int [B] or [B, T], not negative, -1 where there is no token; see
            `document_ids`. None: each row is a document, numbered by what it says.
        counted: bool [B, T], tokens whose activations count (others are shown as context only);
            None: all that belong to a document.

    Raises:
        UserError: shapes that do not fit, or see `pairs_of`.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2:
        raise UserError(
            found=f"tokens of shape {tokens.shape}", expected="[rows, tokens]", do="add a row axis"
        )
    documents = _documents(tokens, documents)
    belongs = documents >= 0
    counted = belongs if counted is None else np.asarray(counted, bool)
    if counted.shape != tokens.shape:
        raise UserError(
            found=f"counted of shape {counted.shape}", expected=f"{tokens.shape}",
            do="say of each token whether it counts",
        )
    counted = counted & belongs
    latents = len(collection.active)
    pairs = pairs_of(code, tokens.shape, latents, counted)
    collection.tokens += int(counted.sum())
    before = collection.level.copy()
    _count(collection, pairs)
    peaks = peaks_of(pairs, documents)
    plan = collection.plan

    def windows(chosen: np.ndarray):
        some = Peaks(*(part[chosen] for part in peaks))
        return windows_of(pairs, some, tokens, documents, plan.before, plan.after)

    # What the passage says is in the draw, so that two of one document are told apart.
    begins = np.ones(tokens.shape, bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    contents = stretch_numbers(tokens, belongs, begins).reshape(-1)[peaks.place]
    draws = mixed(collection.seed, peaks.latent, peaks.document, contents, _bits(peaks.value))
    _offer(collection, peaks.latent, peaks.value, draws, peaks.document, windows, before)
    return collection


def merge(a: Collection, b: Collection) -> Collection:
    """The collection of the data of both; `a` is given away, `b` stays.

    Raises:
        UserError: of other latents, plan, key or maxima.
    """
    same = (
        len(a.active) == len(b.active) and a.plan == b.plan and a.seed == b.seed
        and (a.maxima is None) == (b.maxima is None)
        and (a.maxima is None or np.array_equal(a.maxima, b.maxima))
    )
    if not same:
        raise UserError(
            found="collections of other latents, plan, key or maxima",
            expected="the same for both", do="start them alike",
        )
    before = a.level.copy()
    a.tokens += b.tokens
    a.active += b.active
    a.total += b.total
    a.histogram += b.histogram
    np.maximum(a.largest, b.largest, out=a.largest)
    np.maximum(a.level, b.level, out=a.level)
    for name in ("top", "bands"):
        slots: Slots = getattr(b, name)
        latent, slot = np.nonzero(slots.value > 0)
        windows = lambda chosen, s=slots, l=latent, n=slot: (
            s.tokens[l[chosen], n[chosen]], s.activations[l[chosen], n[chosen]]
        )
        here = (latent, slot)
        _offer(
            a, latent, slots.value[here], slots.key[here], slots.document[here], windows, before,
            (name,),
        )
    return a


def _documents(tokens: np.ndarray, documents) -> np.ndarray:
    if documents is None:
        return document_ids(tokens)
    documents = np.asarray(documents)
    fits = documents.shape in (tokens.shape, tokens.shape[:1])
    if not fits or not np.issubdtype(documents.dtype, np.integer):
        raise UserError(
            found=f"documents of shape {documents.shape} and dtype {documents.dtype}",
            expected=f"whole numbers {tokens.shape} or {tokens.shape[:1]}",
            do="number the document of each token, or of each row",
        )
    documents = documents.astype(np.int64)
    return np.broadcast_to(documents[:, None] if documents.ndim == 1 else documents, tokens.shape)


def _count(c: Collection, pairs: Pairs) -> None:
    if not len(pairs.latent):
        return
    starts = np.flatnonzero(np.append(True, np.diff(pairs.latent) != 0))
    who = pairs.latent[starts]
    c.active[who] += np.diff(np.append(starts, len(pairs.latent)))
    c.total[who] += np.add.reduceat(pairs.value.astype(np.float64), starts)
    c.largest[who] = np.maximum(c.largest[who], np.maximum.reduceat(pairs.value, starts))
    bins = np.floor(np.log2(pairs.value.astype(np.float64)) * BINS_PER_OCTAVE)
    bins = np.clip(bins.astype(np.int64) - LOWEST * BINS_PER_OCTAVE, 0, c.histogram.shape[1] - 1)
    np.add.at(c.histogram.reshape(-1), pairs.latent * c.histogram.shape[1] + bins, 1)
    if c.maxima is None:
        c.level[who] = np.maximum(c.level[who], levels_of(c, who, c.largest[who]))


def _offer(
    c: Collection, latent, value, key, document, windows, before, names=("top", "bands")
) -> None:
    plan = c.plan
    nobody = np.zeros(0, np.int64)
    moved = np.flatnonzero(c.level != before)
    for name in names:
        slots: Slots = getattr(c, name)
        if name == "top":
            able = value >= c.weakest[latent]
            band = lambda latent, value: np.zeros(len(latent), np.int64)
            order = lambda value, key: (~_bits(value), key)
            count, also = plan.top, nobody
        else:
            # Where the ladder moved, what is known of the bands is out of date.
            c.latest[moved] = LAST_KEY
            able = key <= c.latest[latent, bands_of(c, latent, value)]
            band = lambda latent, value: bands_of(c, latent, value)
            order = lambda value, key: ((key >> np.uint64(32)).astype(np.uint32), key)
            count, also = plan.per_band, moved
        chosen = np.flatnonzero(able)
        looked_at = slots.offer(
            latent[chosen], value[chosen], key[chosen], document[chosen],
            lambda some, chosen=chosen: windows(chosen[some]), band, order, count, also,
        )
        if name == "top":
            c.weakest[looked_at] = slots.value[looked_at].min(axis=1)
        else:
            c.latest[looked_at] = _latest(c, looked_at)


def _bits(value: np.ndarray) -> np.ndarray:
    """uint32 that order as the values, float32 above 0."""
    return np.ascontiguousarray(value).view(np.uint32)


def _latest(c: Collection, latents: np.ndarray) -> np.ndarray:
    """uint64 [A, Q]: the largest key of each full band; the largest there is for others."""
    row, slot = np.nonzero(c.bands.value[latents] > 0)
    who = latents[row]
    band = bands_of(c, who, c.bands.value[who, slot])
    filled = np.zeros((len(latents), c.plan.bands), np.int64)
    np.add.at(filled, (row, band), 1)
    largest = np.zeros(filled.shape, np.uint64)
    np.maximum.at(largest, (row, band), c.bands.key[who, slot])
    return np.where(filled >= c.plan.per_band, largest, np.uint64(LAST_KEY))
