"""The attention-suppression matrix (arXiv 2506.19143): hide a sentence, see what changes.

For a source sentence, attention to its tokens is taken away in all layers and heads and from all
queries, its own tokens too. At every later position the next-token distribution at temperature
0.6 is compared with the baseline's by the exact KL over the whole vocabulary, and averaged as
ln(KL + 1e-9) over each later sentence. Tokens before a source are never run again
(`suppression_suffix`), logits exist for a few words at a time (`comparing`), and what leaves the
device is one number for each pair of sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.run import require_touched
from interp_jax.models.decoder import Decoder
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.comparing import (
    Base,
    Comparison,
    base_of,
    compared_streams,
)
from interp_jax.studies.thought_anchors.exact_kl import EXACT
from interp_jax.studies.thought_anchors.suppression_compat import NucleusKL
from interp_jax.studies.thought_anchors.suppression_plan import Group, Recompute, plan_suffixes
from interp_jax.studies.thought_anchors.suppression_suffix import (
    compact,
    compare_groups,
    edited_streams,
    require_options,
    suffix_batch,
    unedited_trace,
)

TEMPERATURE = 0.6
EPSILON = 1e-9
FLOOR = float(np.log(np.float32(EPSILON)))
"""ln(EPSILON) = -20.7233 in float32: the cell of a source that changes nothing."""

SOURCES_AT_ONCE = 8


@dataclass(frozen=True)
class Suppression:
    """What hiding each sentence does.

    Attributes:
        effects: E, float64 [S, S], target by source: mean over the target's tokens of
            ln(KL + 1e-9), KL in nats (of KL itself with `log=False`). Cells of targets before
            the source are exactly `FLOOR` (0).
        keyless: int [S]; (query, head) pairs, summed over layers, that lost every key they had.
    """

    effects: np.ndarray
    keyless: np.ndarray


def suppression_effects(
    network: Decoder, trace: Trace, *, temperature: float = TEMPERATURE,
    at_once: int = SOURCES_AT_ONCE, on_progress: Callable[[int], None] | None = None,
    recompute: Recompute = "suffix", layers: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None, first_tokens: int | None = None, log: bool = True,
    reference_compat: bool = False, allow_untouched: bool = False,
) -> Suppression:
    """E of a trace, with every sentence as the source once.

    A few programs are compiled: one for each length of `plan_suffixes`, and three more.

    Args:
        network: on a CPU best in the scanned layout; an unrolled one is copied into it first.
        temperature: of both distributions.
        at_once: rows in a batch at most; also how many sources are compared in one step.
        on_progress: called after each step with the number of sources it did.
        recompute: `suffix` runs each source from a little before its own start; `full` runs the
            whole trace for each one, and gives the same numbers.
        layers, heads: where attention is taken away; None for all. Heads are the same in all
            these layers.
        first_tokens: only so many tokens of each target count; None for all.
        log: whether ln(KL + 1e-9) is averaged, or KL.
        reference_compat: the KL of truncated distributions that released scores were made with
            (`suppression_compat.NucleusKL`) instead of the exact one.
        allow_untouched: accept a sentence that no token looks at.

    Raises:
        UserError: a trace longer than the context or without sentences, a sentence that no token
            looks at, options out of range.
    """
    spans = trace.spans
    require_options(len(spans), temperature, at_once=at_once, first_tokens=first_tokens)
    network = compact(network)
    end = int(spans[:, 1].max())
    ids, roles = trace.ids, trace.roles
    plan = plan_suffixes(spans[:, 0], end, at_once=at_once, recompute=recompute)
    unedited = unedited_trace(network, trace, end, plan)
    measured = targets(spans, first_tokens)
    comparison = NucleusKL() if reference_compat else EXACT
    heat = jnp.float32(temperature)
    base = base_of(network, unedited.stream, heat) if comparison.needs_base else None
    sums = np.zeros((len(spans), len(spans)))
    keyless = np.zeros(len(spans), np.int64)

    def run(group: Group, sources: list[int | None]):
        # The unedited row hides nothing, nor do rows that are left over.
        hidden = np.zeros((plan.rows, 1, 2), np.int32)
        clean = np.full(plan.rows, end, np.int32)
        for row, source in enumerate(sources):
            if source is not None:
                hidden[row, 0], clean[row] = spans[source], spans[source, 0]
        batch = suffix_batch([(ids[:end], roles[:end])] * plan.rows, group, len(ids))
        return edited_streams(network, batch, unedited, clean, hidden, layers=layers, heads=heads)

    pending: list[tuple] = []

    def compare(sources: list[int], streams, counts) -> None:
        # Nothing differs before the first source's tokens, nor in another row before its own.
        begins = np.full(len(streams), end, np.int32)
        begins[1 : 1 + len(sources)] = spans[sources, 0]
        begins[0] = begins[1 : 1 + len(sources)].min()
        found = span_effects(
            network, streams, jnp.int32(1 + len(sources)), measured, heat, begins, base,
            comparison=comparison, log=log,
        )
        pending.append((sources, found, counts))
        # An accelerator goes on while the host fetches what was before.
        settle(0 if jax.default_backend() == "cpu" else 1)

    def settle(left: int) -> None:
        while len(pending) > left:
            sources, found, counts = jax.device_get(pending.pop(0))
            for told in () if allow_untouched else counts:
                require_touched({"touched/suppression": told["touched/suppression"]})
            sums[:, sources] = found[1 : 1 + len(sources)].T
            keyless[sources] = [told["keyless"] for told in counts]
            if on_progress is not None:
                on_progress(len(sources))

    compare_groups(plan, unedited.stream, min(at_once, len(spans)), run, compare)
    settle(0)
    tokens = np.maximum(measured[:, 1] - measured[:, 0], 1)
    # Sums count from the floor, so a target of floors is the floor, to the bit.
    return Suppression(sums / tokens[:, None] + (FLOOR if log else 0.0), keyless)


@partial(jax.jit, static_argnames=("comparison", "log"))
def span_effects(
    network: Decoder, streams: tuple[jax.Array, ...], count: jax.Array, spans: jax.Array,
    temperature: jax.Array, begins: jax.Array | None = None, base: Base | None = None, *,
    comparison: Comparison = EXACT, log: bool = True,
) -> jax.Array:
    """Sums over the tokens of spans of what distinguishes each row from row 0.

    Args:
        streams: R rows [L, D] after the final norm, from position 0 on.
        count: int32 []; rows that are there.
        spans: int32 [M, 2], half-open in positions.
        begins, base: see `compared_streams`.

    Returns:
        float32 [R, M]: sums of ln(KL + 1e-9) - ln(1e-9), or of KL.
    """
    values = compared_streams(network, streams, count, temperature, comparison, begins, base)
    if log:
        epsilon = jnp.float32(EPSILON)
        values = jnp.log(values + epsilon) - jnp.log(epsilon)
    at = jnp.arange(values.shape[1], dtype=jnp.int32)
    inside = (spans[:, :1] <= at[None, :]) & (at[None, :] < spans[:, 1:])
    return jnp.einsum("bt,st->bs", values, inside.astype(jnp.float32))


def targets(spans: np.ndarray, first_tokens: int | None = None) -> np.ndarray:
    """int32 [S, 2]; the spans, cut to their first tokens."""
    if first_tokens is None:
        return spans
    return np.minimum(spans, spans[:, :1] + np.asarray([[0, first_tokens]])).astype(np.int32)
