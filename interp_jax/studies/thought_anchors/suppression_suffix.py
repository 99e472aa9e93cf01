"""Running only what an edit of a trace can change: its suffix, behind a shared prefix.

What is hidden or deleted in a trace changes nothing before it. So the trace is run once, into a
cache, and each edited row runs from a position at or before its own edit, looking at the keys of
the cache before that. Sources with nearly equal suffixes form a group of one length: one
compiled program each, of which there are few.

A position that sees nothing of an edit must have the very same bits as in the unedited trace, or
rounding would fill ln(KL + 1e-9). On a CPU a token's bits do not hang on the tokens that are run
with it, so that long traces need no other unedited run than the first; each row proves it, at
its columns before its own edit. Elsewhere, and should a row fail, a group has an unedited row of
its own, which goes through the same program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.verbs import read, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.cache import Prefix
from interp_jax.models.decoder import Decoder, as_prefix
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.suppression_plan import Group, SuffixPlan
from interp_jax.studies.thought_anchors.trace_batch import require_fits


class Unedited(NamedTuple):
    """The trace as it is.

    Attributes:
        stream: [columns, D] after the final norm.
        prefix: keys and values of all its columns.
    """

    stream: jax.Array
    prefix: Prefix


def unedited_trace(network: Decoder, trace: Trace, end: int, plan: SuffixPlan) -> Unedited:
    """Runs the first `end` tokens of a trace once.

    Raises:
        UserError: a trace longer than the context.
    """
    require_fits(len(trace.ids), network.config)
    row = (trace.ids[:end], trace.roles[:end])
    return _run_unedited(network, suffix_batch([row], Group(0, plan.columns, ()), len(trace.ids)))


@jax.jit
def _run_unedited(network: Decoder, batch: Batch) -> Unedited:
    network = read("final_norm", name="last stream")(network)
    cache = network.empty_cache(1, batch.tokens.shape[1])
    _, tape, cache = network.extend(batch, cache, logits_at="none", fresh=True)
    return Unedited(tape["last stream"][0], as_prefix(cache))


def suffix_batch(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], group: Group, total: int
) -> Batch:
    """Rows of whole (tokens, roles), from the group's start on, padded to its length.

    Args:
        total: tokens of the unedited trace, which positions from the end count back from.
    """
    tokens = np.zeros((len(rows), group.length), np.int32)
    roles = np.zeros(tokens.shape, np.int8)
    valid = np.zeros(tokens.shape, bool)
    for row, (own, own_roles) in enumerate(rows):
        part = own[group.start : group.start + group.length]
        tokens[row, : len(part)] = part
        roles[row, : len(part)] = own_roles[group.start : group.start + group.length]
        valid[row, : len(part)] = True
    fill = lambda value: np.full(len(rows), value, np.int32)
    return Batch.make(
        tokens, valid, roles=roles, lengths=fill(total), start=fill(group.start), packed=True
    )


@partial(jax.jit, static_argnames=("layers", "heads"))
def edited_streams(
    network: Decoder, batch: Batch, before: Unedited, clean: jax.Array,
    hidden: jax.Array | None = None, shift: jax.Array | None = None, *,
    layers: tuple[int, ...] | None = None, heads: tuple[int, ...] | None = None,
) -> tuple[tuple[jax.Array, ...], jax.Array, dict[str, jax.Array]]:
    """Streams after the final norm of edited rows, from the first position of the trace on.

    Args:
        batch: [R, L], the last L columns of the trace, of each row.
        before: what stands before these columns, and the unedited stream of all.
        clean: int32 [R]; positions before which a row is the unedited trace.
        hidden: int32 [R, N, 2], own positions that attention is taken from; None for none.
        shift: int32 [R]; row r is moved right by as many columns, to stand over the columns of
            the unedited row. What falls in at the left is the unedited stream.
        layers, heads: where attention is taken away; None for all.

    Returns:
        R streams [columns, D]; whether they are the unedited stream to the bit before `clean`,
        bool []; and the counts of the suppression, int32 [R].
    """
    if hidden is not None:
        hide = suppress_attention(
            Where(spans=hidden), layers=layers, heads=heads, name="suppression"
        )
        network = hide(network)
    network = read("final_norm", name="last stream")(network)
    (rows, length), columns = batch.tokens.shape, before.stream.shape[0]
    start = columns - length
    if start == 0:
        _, tape = network(batch, logits_at="none")
    else:
        # No slots of their own: nothing comes after these tokens, so their keys are not kept.
        cache = network.empty_cache(rows, 0, before.prefix.sliced(start))
        cut = jnp.full(rows, start, jnp.int32)
        cache = dataclasses.replace(cache, cut=cut, lengths=batch.lengths)
        _, tape, _ = network.extend(batch, cache, logits_at="none", fresh=True)
    at = jnp.arange(columns, dtype=jnp.int32)[None]
    spread = jnp.broadcast_to(before.stream[None], (rows, *before.stream.shape))
    streams = jnp.concatenate([spread[:, :start], tape["last stream"]], axis=1)
    same = jnp.all(jnp.where((at < clean[:, None])[..., None], streams == spread, True))
    if shift is not None:
        streams = jax.vmap(partial(jnp.roll, axis=0))(streams, shift)
        streams = jnp.where((at < shift[:, None])[..., None], spread, streams)
    names = ("touched/suppression", "keyless")
    return tuple(streams), same, {name: tape[name] for name in names if name in tape}


def compare_groups(
    plan: SuffixPlan, base: jax.Array, at_once: int,
    run: Callable[[Group, list[int | None]], tuple],
    compare: Callable[[list[int], tuple[jax.Array, ...], list[dict[str, jax.Array]]], None],
) -> None:
    """Runs all sources, and compares them with the unedited trace.

    Args:
        base: the unedited stream, [columns, D].
        at_once: sources in a call of `compare`.
        run: a group and `plan.rows` of its sources at most, None for the unedited row -> what
            `edited_streams` returns.
        compare: takes sources; the unedited stream, theirs, and fillers up to `1 + at_once`; and
            the counts of each source.
    """
    apart = plan.apart
    for group in plan.groups:
        left = group.sources
        if apart:
            left = _compare_group(group, left, plan.rows, at_once, base, run, compare)
            apart = not left
        if left:
            _compare_group(group, left, plan.rows, at_once, None, run, compare)


def _compare_group(
    group: Group, sources: Sequence[int], rows: int, at_once: int, base, run, compare
) -> list[int]:
    """See `compare_groups`; without a base the group has an unedited row of its own.

    Returns:
        Sources that were not compared: a row shows that the base is not to the bit what it would
        be in this group.
    """
    apart = base is not None
    pending, ready = [*sources] if apart else [None, *sources], []
    for at in range(0, len(pending), rows):
        own = pending[at : at + rows]
        streams, same, counts = run(group, own)
        if jax.default_backend() == "cpu":
            # One call at a time: several in flight would each hold their scratch memory.
            jax.block_until_ready(streams)
        if apart and not same:
            return [source for source, *_ in ready] + pending[at:]
        found = [
            (source, streams[row], {name: value[row] for name, value in counts.items()})
            for row, source in enumerate(own)
        ]
        if base is None:
            base = found.pop(0)[1]
        ready += found
        last = at + rows >= len(pending)
        while len(ready) >= at_once or (last and ready):
            some, ready = ready[:at_once], ready[at_once:]
            fillers = [base] * (at_once - len(some))
            compare(
                [source for source, _, _ in some],
                (base, *(stream for _, stream, _ in some), *fillers),
                [told for _, _, told in some],
            )
    return []


def compact(network: Decoder) -> Decoder:
    """The layout that these programs run best in.

    Scanned on a CPU where nothing is placed in the layers (measured with 30 layers: compiled in
    a third of the time, a fifth of the scratch memory); this copies the weights. Else as it is.
    """
    if jax.default_backend() != "cpu" or network.layout == "scanned":
        return network
    bare = not any(block.taps for block in network.segments)
    return network.with_layout("scanned") if bare else network


def require_options(sentences: int, temperature: float, **counts: int | None) -> None:
    """Raises UserError for a trace without sentences, or options out of range.

    Args:
        counts: option name to a number that must be at least 1, or None.
    """
    wrong = [f"{name}={value}" for name, value in counts.items() if value is not None and value < 1]
    if not 0 < temperature < np.inf:
        wrong.append(f"temperature={temperature}")
    if sentences < 1:
        wrong.append("a trace without sentences")
    if wrong:
        raise UserError(
            found=", ".join(wrong), expected="a temperature above 0, and at least one of the rest",
            do="change the option, or give another trace",
        )
