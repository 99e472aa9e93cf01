"""Receiver heads of one trace (arXiv 2506.19143): one forward pass, reduced on the device.

The attention of every layer and head is averaged over pairs of sentences inside the pass, so
what leaves it is `[L, H, S, S]` and never a matrix of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from interp_jax.interventions.reads import SpanMeans
from interp_jax.interventions.run import run
from interp_jax.interventions.verbs import read
from interp_jax.models.decoder import Decoder
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.trace_batch import trace_batch
from interp_jax.studies.thought_anchors.vertical import (
    MINIMUM_SENTENCES,
    PROXIMITY,
    TOP_HEADS,
    head_kurtosis,
    receiver_scores,
    select_receiver_heads,
    vertical_scores,
)


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
    batch = trace_batch(trace, network.config)
    look = read("attn_weights", reduce=SpanMeans(trace.spans), name="sentences")
    _, tape = run(network, batch, look, logits_at="none")
    return np.asarray(jax.device_get(tape["sentences"]))[:, 0]


def find_receiver_heads(
    network: Decoder, trace: Trace, *, proximity: int = PROXIMITY, top: int = TOP_HEADS
) -> ReceiverHeads:
    """Receiver heads and scores of a trace; `top` at most the heads that have a kurtosis."""
    vertical = vertical_scores(sentence_attention(network, trace), proximity=proximity)
    kurtosis = head_kurtosis(vertical)
    available = int(np.isfinite(kurtosis[1:]).sum())
    heads = select_receiver_heads(kurtosis, min(top, max(available, 1)))
    return ReceiverHeads(heads, kurtosis, receiver_scores(vertical, heads))
