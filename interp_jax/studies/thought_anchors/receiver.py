"""Receiver heads of traces (arXiv 2506.19143): one forward pass each, reduced on the device.

The attention of every layer and head is averaged over pairs of sentences inside the pass, a block
of queries at a time. What leaves it is `[L, H, S, S]`, or `[L, H, S]` where the vertical scores
are all that is wanted; a matrix of tokens never exists for all queries. The output head is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.reads import SpanMeans
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import read
from interp_jax.models.decoder import Decoder
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.trace_batch import trace_batch
from interp_jax.studies.thought_anchors.vertical import (
    MINIMUM_SENTENCES,
    PROXIMITY,
    SKIP_LAYERS,
    TOP_HEADS,
    head_kurtosis,
    mean_kurtosis,
    receiver_scores,
    select_receiver_heads,
    split_half_reliability,
    vertical_scores,
)

SENTENCES_STEP = 32  # sentences are filled up to a multiple, so that traces share programs


@dataclass(frozen=True)
class ReceiverHeads:
    """Which heads look back at few sentences, and at which.

    Attributes:
        heads: (layer, head), the strongest first.
        kurtosis: float64 [L, H], NaN where a head's scores are constant.
        scores: float64 [S], receiver score; NaN for the last sentences.
    """

    heads: list[tuple[int, int]]
    kurtosis: np.ndarray
    scores: np.ndarray


def too_short(sentences: int) -> str | None:
    """Why receiver heads are not shown for so few sentences, or None."""
    if sentences >= MINIMUM_SENTENCES:
        return None
    return (
        f"The trace has {sentences} sentences. Receiver heads are found by the kurtosis of a "
        f"head's attention over sentences, which says nothing below {MINIMUM_SENTENCES}."
    )


def sentence_attention(network: Decoder, trace: Trace) -> np.ndarray:
    """Mean attention between sentences, float32 [L, H, S, S], query by key (spec 8.1)."""
    count = len(trace.spans)
    means = jax.device_get(_sentence_means(network, trace))
    return np.ascontiguousarray(means[:, 0, :, :count, :count])


def vertical_attention(
    network: Decoder, trace: Trace, *, proximity: int = PROXIMITY
) -> np.ndarray:
    """Vertical scores v(j), float32 [L, H, S]; the last P sentences are NaN (spec 8.2).

    The same as `vertical_scores(sentence_attention(...))`, but only the scores leave the device.
    """
    count = len(trace.spans)
    scores = _vertical(_sentence_means(network, trace)[:, 0], jnp.int32(count), proximity)
    return np.ascontiguousarray(jax.device_get(scores)[..., :count])


def _sentence_means(network: Decoder, trace: Trace) -> jax.Array:
    """[L, 1, H, N, N] on the device; the sentences after the trace's own are empty."""
    spans = trace.spans
    filled = np.zeros((-(-len(spans) // SENTENCES_STEP) * SENTENCES_STEP, 2), np.int32)
    filled[: len(spans)] = spans
    look = read("attn_weights", reduce=SpanMeans(filled), name="sentences")
    _, tape = run(network, trace_batch(trace, network.config), look, logits_at="none")
    return tape["sentences"]


@partial(jax.jit, static_argnames="proximity")
def _vertical(means: jax.Array, count: jax.Array, proximity: int) -> jax.Array:
    """v(j) of `[L, H, N, N]`, of which the first `count` sentences are real."""
    at = jnp.arange(means.shape[-1], dtype=jnp.int32)
    counted = (at[:, None] >= at[None, :] + jnp.int32(proximity)) & (at[:, None] < count)
    number = jnp.sum(counted, axis=0, dtype=jnp.int32)
    total = jnp.einsum(
        "lhij,ij->lhj", means, counted.astype(means.dtype), precision=jax.lax.Precision.HIGHEST
    )
    scores = total / jnp.maximum(number, 1).astype(means.dtype)[None, None, :]
    return jnp.where((number > 0)[None, None, :], scores, jnp.asarray(jnp.nan, means.dtype))


def find_receiver_heads(
    network: Decoder, trace: Trace, *, proximity: int = PROXIMITY, top: int = TOP_HEADS
) -> ReceiverHeads:
    """Receiver heads and scores of a trace; `top` at most the heads that have a kurtosis."""
    vertical = vertical_attention(network, trace, proximity=proximity)
    kurtosis = head_kurtosis(vertical)
    available = int(np.isfinite(kurtosis[1:]).sum())
    heads = select_receiver_heads(kurtosis, min(top, max(available, 1)))
    return ReceiverHeads(heads, kurtosis, receiver_scores(vertical, heads))


@dataclass(frozen=True)
class ReceiverSurvey:
    """Receiver heads by their mean kurtosis over several traces.

    Attributes:
        heads: (layer, head), the largest mean kurtosis first.
        kurtosis: float64 [traces, L, H], of each trace that was long enough.
        mean: float64 [L, H], over those traces; NaN where a head has none.
        reliability: Pearson r over heads of the mean kurtosis on even and on odd traces; None
            with fewer than two traces, or where it is undefined.
        scores: for each of those traces float64 [S], the receiver score of its sentences.
        used: indices of those traces among the ones given.
    """

    heads: list[tuple[int, int]]
    kurtosis: np.ndarray
    mean: np.ndarray
    reliability: float | None
    scores: list[np.ndarray]
    used: list[int]


def receiver_heads_over(
    network: Decoder, traces: Sequence[Trace], *, proximity: int = PROXIMITY,
    top: int = TOP_HEADS, control_depth: bool = False,
    statistic: Literal["mean", "median"] = "mean", skip_layers: Sequence[int] = SKIP_LAYERS,
    minimum: int = MINIMUM_SENTENCES, on_progress: Callable[[int], None] | None = None,
) -> ReceiverSurvey:
    """The heads with the largest mean kurtosis over traces, and how reliable it is (spec 8.3-4).

    Args:
        proximity, control_depth, statistic: see `vertical_scores`. With depth control or the
            median the sentence matrices leave the device, else only the scores.
        top: K; at most the heads that have a kurtosis are chosen.
        skip_layers: layers whose heads are not chosen, nor counted in the reliability.
        minimum: traces with fewer sentences are left out.
        on_progress: called with 1 after each trace.

    Raises:
        UserError: no trace has `minimum` sentences, or no head has a kurtosis.
    """
    used = [i for i, trace in enumerate(traces) if len(trace.spans) >= minimum]
    if not used:
        longest = max((len(trace.spans) for trace in traces), default=0)
        raise UserError(
            found=f"{len(traces)} traces, the longest of {longest} sentences",
            expected=f"at least one of {minimum} or more, for a kurtosis over sentences",
            do="give longer traces",
        )
    verticals = []
    for index in used:
        if control_depth or statistic != "mean":
            vertical = vertical_scores(
                sentence_attention(network, traces[index]), proximity=proximity,
                control_depth=control_depth, statistic=statistic,
            )
        else:
            vertical = vertical_attention(network, traces[index], proximity=proximity)
        verticals.append(vertical)
        if on_progress is not None:
            on_progress(1)
    kurtosis = np.stack([head_kurtosis(vertical) for vertical in verticals])
    mean = mean_kurtosis(kurtosis)
    kept = [layer for layer in range(len(mean)) if layer not in set(skip_layers)]
    available = int(np.isfinite(mean[kept]).sum())
    heads = select_receiver_heads(mean, min(top, max(available, 1)), skip_layers=skip_layers)
    return ReceiverSurvey(
        heads, kurtosis, mean, _reliability(kurtosis, kept, skip_layers),
        [receiver_scores(vertical, heads) for vertical in verticals], used,
    )


def _reliability(
    kurtosis: np.ndarray, kept: list[int], skip_layers: Sequence[int]
) -> float | None:
    """Split-half reliability, None where there are no halves to correlate."""
    if len(kurtosis) < 2:
        return None
    halves = [mean_kurtosis(kurtosis[start::2])[kept].ravel() for start in (0, 1)]
    known = np.isfinite(halves[0]) & np.isfinite(halves[1])
    if known.sum() < 2 or any(np.ptp(half[known]) == 0 for half in halves):
        return None
    return split_half_reliability(kurtosis, skip_layers=skip_layers)
