"""The masking graph: delete a sentence from the trace, re-score the rest.

A cheaper relative of resampling, made with forward passes only. The tokens of a source sentence
are taken out, the ones after it close up, and every later token is predicted again. A cell is the
KL between the distributions that predict the same token with and without the source, over the
tokens of a later sentence. Deleting moves what comes after, so unlike suppression
(`suppression`) it changes positions too.

`normalise.normalise_suppression` takes the mean over sources from each target (these are the
column means of a source-by-target matrix), and `normalise.distance_profile` averages each diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.models.decoder import Decoder
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.comparing import (
    Base,
    Comparison,
    base_of,
    compared_streams,
)
from interp_jax.studies.thought_anchors.exact_kl import EXACT
from interp_jax.studies.thought_anchors.normalise import distance_profile, normalise_suppression
from interp_jax.studies.thought_anchors.suppression_plan import Group, Recompute, plan_suffixes
from interp_jax.studies.thought_anchors.suppression_suffix import (
    compact,
    compare_groups,
    edited_streams,
    require_options,
    suffix_batch,
    unedited_trace,
)
from interp_jax.studies.thought_anchors.top_tokens import OfTopTokens, TopTokens

FIRST_TOKENS = 3
FEWEST_TOKENS = 5


@dataclass(frozen=True)
class MaskingGraph:
    """KL caused by deleting each sentence. Matrices are float64 [S, S], target by source, in
    nats; NaN unless the source is before the target and enough tokens follow it. Without a
    prompt, nothing predicts the token after a first sentence that was deleted: it counts as 0.

    Attributes:
        mean: over the tokens of the target.
        total: their sum.
        first: mean over the first tokens of the target.
    """

    mean: np.ndarray
    total: np.ndarray
    first: np.ndarray

    def cleaned(self) -> np.ndarray:
        """`mean` without each target's own mean over its sources."""
        return normalise_suppression(self.mean)

    def profile(self) -> np.ndarray:
        """Mean of `mean` at each distance, [S]; entry 0 is NaN."""
        return distance_profile(self.mean)


class KnownPart(NamedTuple):
    """KL over a short list, but for the value of what the other list lacks.

    Attributes:
        known: sum of p ln p over the list less p ln q where q is known, [C].
        lacking: probability p of the tokens that the other list lacks, [C].
        lowest: least log-probability in the two lists, [C].
    """

    known: jax.Array
    lacking: jax.Array
    lowest: jax.Array


class TopLogprobs(OfTopTokens):
    """What an endpoint lets one compare: the `cap` most likely tokens of the baseline."""

    def finish(self, carry: TopTokens, shift, base, temperature) -> KnownPart:
        """See `KnownPart`."""
        del shift, base
        ids, logs = carry.ids, carry.log_probabilities(temperature)

        def one(other: tuple[jax.Array, jax.Array]) -> KnownPart:
            same = ids[0, :, :, None] == other[0][:, None, :]
            theirs = jnp.sum(jnp.where(same, other[1][:, None, :], jnp.float32(0)), axis=2)
            p = jnp.exp(logs[0])
            return KnownPart(
                jnp.sum(p * (logs[0] - theirs), axis=1),
                jnp.sum(jnp.where(jnp.any(same, axis=2), jnp.zeros_like(p), p), axis=1),
                jnp.minimum(jnp.min(logs[0], axis=1), jnp.min(other[1], axis=1)),
            )

        return jax.lax.map(one, (ids, logs))


def masking_graph(
    network: Decoder, trace: Trace, *, temperature: float = 1.0, top_logprobs: int | None = None,
    at_once: int = 8, recompute: Recompute = "suffix",
    on_progress: Callable[[int], None] | None = None,
) -> MaskingGraph:
    """The graph of a trace, with every sentence deleted once.

    Args:
        network: as in `suppression_effects`.
        temperature: of both distributions.
        top_logprobs: None for the exact KL over the whole vocabulary. A number K for what an
            endpoint would give: KL over the baseline's K most likely tokens, not renormalised, a
            token that is not among the other's K counting as the lowest log-probability seen
            anywhere (it may come out negative).
        at_once: rows in a batch at most; also how many sources are compared in one step.
        recompute: see `suppression_effects`.
        on_progress: called after each step with the number of sources it did.

    Raises:
        UserError: a trace longer than the context or without sentences, options out of range.
    """
    spans = trace.spans
    require_options(len(spans), temperature, top_logprobs=top_logprobs, at_once=at_once)
    network = compact(network)
    end, count = int(spans[:, 1].max()), len(spans)
    ids, roles = trace.ids[:end], trace.roles[:end]
    # The token before a source is run too: it now predicts what follows the hole.
    plan = plan_suffixes(
        np.maximum(spans[:, 0] - 1, 0), end, at_once=at_once, recompute=recompute
    )
    unedited = unedited_trace(network, trace, end, plan)
    comparison = EXACT if top_logprobs is None else TopLogprobs(top_logprobs)
    heat = jnp.float32(temperature)
    base = base_of(network, unedited.stream, heat) if comparison.needs_base else None
    # A token is predicted one position earlier.
    whole = spans - 1
    begun = np.minimum(whole, whole[:, :1] + np.asarray([[0, FIRST_TOKENS]])).astype(np.int32)
    found = np.zeros((3, 2 * count, count))

    def run(group: Group, sources: list[int | None]):
        holes, clean = np.zeros((plan.rows, 2), np.int32), np.full(plan.rows, end, np.int32)
        for row, source in enumerate(sources):
            if source is not None:
                holes[row], clean[row] = spans[source], spans[source, 0]
        kept = [np.r_[0:start, stop:end] for start, stop in holes]
        batch = suffix_batch([(ids[k], roles[k]) for k in kept], group, end)
        return edited_streams(network, batch, unedited, clean, None, holes[:, 1] - holes[:, 0])

    def compare(sources: list[int], streams, counts) -> None:
        holes = np.zeros((len(streams), 2), np.int32)
        holes[1 : 1 + len(sources)] = spans[sources]
        # The last token of a hole is the first whose prediction differs.
        begins = np.full(len(streams), end, np.int32)
        begins[1 : 1 + len(sources)] = spans[sources, 1] - 1
        begins[0] = begins[1 : 1 + len(sources)].min()
        sums = deletion_sums(
            network, streams, jnp.int32(1 + len(sources)), np.concatenate([whole, begun]),
            jnp.int32(end), holes, heat, begins, base, comparison=comparison,
        )
        for part, values in zip(found, sums, strict=False):
            part[:, sources] = np.asarray(values)[1 : 1 + len(sources)].T
        if on_progress is not None:
            on_progress(len(sources))

    compare_groups(plan, unedited.stream, min(at_once, count), run, compare)
    return _graph(found, spans, end, exact=top_logprobs is None)


@partial(jax.jit, static_argnames="comparison")
def deletion_sums(
    network: Decoder, streams: tuple[jax.Array, ...], count: jax.Array, spans: jax.Array,
    end: jax.Array, holes: jax.Array, temperature: jax.Array, begins: jax.Array,
    base: Base | None = None, *, comparison: Comparison = EXACT,
) -> tuple[jax.Array, ...]:
    """Sums over predicting positions of spans, for each row against row 0.

    Args:
        streams: R rows [L, D], from position 0 on, standing over row 0's columns.
        count, begins, base: as in `span_effects`.
        spans: int32 [M, 2], half-open, of the positions that predict.
        end: int32 []; positions of the trace.
        holes: int32 [R, 2]; what each row lacks. Positions before its last token are not counted.

    Returns:
        float32 [R, M]: sums of KL; of a `KnownPart`: sums of `known`, of `lacking`, and the
        `lowest` over all positions of the row.
    """
    values = compared_streams(network, streams, count, temperature, comparison, begins, base)
    one = jax.tree.leaves(values)[0]
    at = jnp.arange(one.shape[1], dtype=jnp.int32)
    inside = (spans[:, :1] <= at[None, :]) & (at[None, :] < spans[:, 1:])
    after = (at[None, :] >= holes[:, 1:] - 1) & (at[None, :] < end - 1)
    add = lambda a: jnp.einsum(
        "bt,st->bs", jnp.where(after, a, jnp.zeros_like(a)), inside.astype(a.dtype)
    )
    if not isinstance(values, KnownPart):
        return (add(values),)
    lowest = jnp.min(jnp.where(after, values.lowest, jnp.float32(0)), axis=1, keepdims=True)
    lowest = jnp.broadcast_to(lowest, (one.shape[0], len(spans)))
    return add(values.known), add(values.lacking), lowest


def _graph(found: np.ndarray, spans: np.ndarray, end: int, exact: bool) -> MaskingGraph:
    count = len(spans)
    sums = found[0] if exact else found[0] - found[2].min() * found[1]
    order = np.arange(count)
    few = end - spans[:, 1] < FEWEST_TOKENS
    unknown = (order[:, None] <= order[None, :]) | few[None, :]
    tokens = spans[:, 1] - spans[:, 0]
    over = lambda values, n: np.where(unknown, np.nan, values) / np.maximum(n, 1)[:, None]
    return MaskingGraph(
        mean=over(sums[:count], tokens), total=over(sums[:count], np.ones(count)),
        first=over(sums[count:], np.minimum(tokens, FIRST_TOKENS)),
    )
