"""Running only what an edit of a trace can change: its suffix, behind a shared prefix.

What is hidden or deleted in a trace changes nothing before it. So the trace is run once into a
cache, and each edited row runs from a position at or before its own edit, looking at the keys of
the cache before that. Sources with nearly equal suffixes form a group of one length: one
compiled program each, of which there are few. The unedited row of a group runs through that same
program, so that a position which sees nothing of the edit has the very same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.prefixes import make_prefix
from interp_jax.interventions.verbs import read, suppress_attention
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.cache import Prefix
from interp_jax.models.decoder import Decoder
from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.trace_batch import require_fits

Recompute = Literal["suffix", "full"]

MOST_GROUPS = 8
_FINE, _COARSE = 16, 64  # what lengths are multiples of, in short and in long traces
_LONG = 512
# A prefix of fewer tokens, and of less than a sixteenth of what is run, is run with it: to look at
# 8 keys took 9 % of the time of 1,088 tokens (on a CPU).
_SHORT_PREFIX, _SHARE = 64, 16
# What a call costs beside its rows, in rows: reading the weights once, and starting it.
_CALL_COST = {"cpu": 0.1, "gpu": 3.0}
# On a CPU more rows make no product quicker, and hold more memory (measured with 1,104 tokens).
_MOST_ROWS = {"cpu": 2}


@dataclass(frozen=True)
class Group:
    """Sources that run with one length.

    Attributes:
        start: position of the first token that is run; what stands before it is cached.
        length: how many positions are run; those past the end of the trace are padding.
        sources: their indices.
    """

    start: int
    length: int
    sources: tuple[int, ...]


def suffix_groups(
    first: Sequence[int], end: int, *, at_once: int = 8, recompute: Recompute = "suffix"
) -> list[Group]:
    """Groups for edits whose first changed positions are `first`, in a trace of `end` tokens.

    Sources that begin one after another share a length, that of the longest. More groups waste
    less on that, but each runs the unedited row once more and is one more program, and rows of a
    call may be left empty: of all ways to cut, the cheapest at the best number of rows.

    Args:
        at_once: most sources in a call, see `rows_per_call`.
    """
    needed = end - np.minimum(np.asarray(first, np.int64), end - 1)
    longest = end if recompute == "full" else int(needed.max())
    grain = _COARSE if longest > _LONG else _FINE
    if recompute == "full":
        return [Group(0, _up(end, grain), tuple(range(len(needed))))]
    order = np.argsort(-needed, kind="stable")
    lengths = _up(needed[order], grain)
    cuts = min((_cheapest(lengths, rows) for rows in _row_counts(at_once)), key=lambda c: c[0])[1]
    return [
        _group(end, int(lengths[i]), tuple(sorted(order[i:j].tolist())))
        for i, j in zip(cuts[:-1], cuts[1:], strict=True)
    ]


def _group(end: int, length: int, sources: tuple[int, ...]) -> Group:
    start = max(end - length, 0)
    if start < _SHORT_PREFIX and start * _SHARE < length:
        return Group(0, _up(end, _FINE), sources)
    return Group(start, length, sources)


def _row_counts(at_once: int) -> range:
    most = _MOST_ROWS.get(jax.default_backend(), at_once + 1)
    return range(1, min(max(1, at_once) + 1, most) + 1)


def _call_cost(rows: int) -> float:
    """Of one call at one position, in rows."""
    return rows + _CALL_COST.get(jax.default_backend(), 1.0)


def _cheapest(lengths: np.ndarray, rows: int) -> tuple[float, list[int]]:
    """The cost of the best cuts of descending lengths into groups, and where they are."""
    count = len(lengths)
    # best[i]: the least cost of the first i sources in so many groups; came[g][i]: the last cut.
    best, came, found = np.full(count + 1, np.inf), [], (np.inf, 0)
    best[0] = 0.0
    for groups in range(1, min(MOST_GROUPS, count) + 1):
        after, last = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
        for i in range(1, count + 1):
            calls = -(-(1 + i - np.arange(i)) // rows)  # with the unedited row
            costs = best[:i] + calls * lengths[:i] * _call_cost(rows)
            last[i] = np.argmin(costs)
            after[i] = costs[last[i]]
        best = after
        came.append(last)
        found = min(found, (float(best[count]), groups))
    cuts = [count]
    for last in reversed(came[: found[1]]):
        cuts.append(int(last[cuts[-1]]))
    return found[0], cuts[::-1]


def rows_per_call(groups: Sequence[Group], at_once: int) -> int:
    """How many rows a call takes, so that few of them are left empty; `at_once` sources and the
    unedited row at most."""

    def cost(rows: int) -> float:
        calls = [-(-(1 + len(group.sources)) // rows) * group.length for group in groups]
        return sum(calls) * _call_cost(rows)

    return min(_row_counts(at_once), key=cost)


def shared_prefix(network: Decoder, ids: np.ndarray, roles: np.ndarray, groups) -> Prefix | None:
    """The cache of what stands before the latest group; None where every group starts at 0.

    Raises:
        UserError: a trace longer than the context.
    """
    require_fits(len(ids), network.config)
    longest = max(group.start for group in groups)
    if longest == 0:
        return None
    made = make_prefix(network, ids[:longest], roles=roles[:longest], length=len(ids))
    return made.prefix


def prefix_of(group: Group, prefix: Prefix | None) -> Prefix | None:
    """What stands before a group, cut out of `shared_prefix`: every row sees all of it."""
    return prefix.sliced(group.start) if prefix is not None and group.start else None


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
    network: Decoder, batch: Batch, prefix: Prefix | None, cut: jax.Array,
    hidden: jax.Array | None = None, shift: jax.Array | None = None, *,
    layers: tuple[int, ...] | None = None, heads: tuple[int, ...] | None = None,
) -> tuple[tuple[jax.Array, ...], dict[str, jax.Array]]:
    """Streams after the final norm of edited rows.

    Args:
        batch: [R, L], tokens that follow the first `cut` of the prefix.
        prefix: keys and values of the unedited trace, or None for rows that start at 0.
        cut: int32 [R].
        hidden: int32 [R, N, 2], own positions that attention is taken from; None for none.
        shift: int32 [R]; row r is moved right by as many columns, to stand over the columns of
            the unedited row. What falls in at the left means nothing.
        layers, heads: where attention is taken away; None for all.

    Returns:
        R streams [L, D], and the counts of the suppression, int32 [R].
    """
    if hidden is not None:
        hide = suppress_attention(
            Where(spans=hidden), layers=layers, heads=heads, name="suppression"
        )
        network = hide(network)
    network = read("final_norm", name="last stream")(network)
    if prefix is None:
        _, tape = network(batch, logits_at="none")
    else:
        # No slots of their own: nothing comes after these tokens, so their keys are not kept.
        cache = network.empty_cache(batch.tokens.shape[0], 0, prefix)
        cache = dataclasses.replace(cache, cut=cut, lengths=batch.lengths)
        _, tape, _ = network.extend(batch, cache, logits_at="none", fresh=True)
    streams = tape["last stream"]
    if shift is not None:
        streams = jax.vmap(partial(jnp.roll, axis=0))(streams, shift)
    names = ("touched/suppression", "keyless")
    return tuple(streams), {name: tape[name] for name in names if name in tape}


def compare_group(
    group: Group, rows: int, at_once: int,
    run: Callable[[list[int | None]], tuple[Sequence[jax.Array], dict[str, jax.Array]]],
    compare: Callable[[list[int], tuple[jax.Array, ...], list[dict[str, jax.Array]]], None],
) -> None:
    """Runs a group's rows, and compares its sources with its own unedited row.

    Args:
        rows: in a call of `run`.
        at_once: sources in a call of `compare`.
        run: sources, None for the unedited row -> a stream for each, and counts [rows].
        compare: takes sources; the unedited stream, theirs, and fillers up to `1 + at_once`; and
            the counts of each source.
    """
    pending = [None, *group.sources]
    base, ready = None, []
    for at in range(0, len(pending), rows):
        own = pending[at : at + rows]
        streams, counts = run(own)
        if jax.default_backend() == "cpu":
            # One call at a time: several in flight would each hold their scratch memory.
            jax.block_until_ready(streams)
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


def _up(value: Any, grain: int) -> Any:
    return -(-value // grain) * grain
