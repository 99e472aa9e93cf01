"""The engine: a queue of requests, a batch of slots, and refilling.

Requests are sorted into buckets by the cache slots that they need. In each
bucket the compiled loop runs until enough rows are done; those are fetched,
new requests take their slots at once, and the loop goes on. Nothing waits for
the slowest row while there is work left.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.collecting import Keep, empty_tape, is_per_token, public_name
from interp_jax.generation.decode import admit_rows, decode_chunk, fetch_rows
from interp_jax.generation.prefixes import SharedPrefix
from interp_jax.generation.requests import Finish, Request, Sample, Stats, bucket
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.generation.slots import Arrivals, Slots, empty_slots
from interp_jax.models.decoder import Decoder
from interp_jax.runtime.errors import UserError

# A row's interventions: one for all rows, or a function of the items in the slots.
PerRow = Callable[[np.ndarray], object]
# Called between chunks with the tokens so far; says whether the row is done.
Watch = Callable[[int, np.ndarray], bool]


class Engine:
    """Samples for many requests with one network.

    Args:
        network: any layout.
        params: temperature and filters, the same for every row.
        stop_tokens: ids that end a row.
        interventions: one intervention, or None.
        per_row: items [B] -> intervention whose operands have those rows; an
            idle slot is given item 0. Its structure must not depend on the items.
        batch_size: slots at most.
        all_slots: always use that many, however few requests there are: programs
            are then the same for a part of the requests as for all of them, and so
            are the bits (a run that is resumed has only a part left).
        role: given to sampled tokens.
        keep: what becomes of reads during decoding, see `collecting`.
        watch: host-side stop condition, looked at every `watch_every` steps.
    """

    def __init__(
        self, network: Decoder, params: SamplingParams, *, stop_tokens: Sequence[int] = (),
        interventions=None, per_row: PerRow | None = None, batch_size: int = 64, role: int = 0,
        keep: Keep | None = None, watch: Watch | None = None, watch_every: int = 16,
        all_slots: bool = False,
    ):
        if batch_size < 1:
            raise UserError(
                found=f"batch_size = {batch_size}", expected="at least 1", do="give more slots"
            )
        self.network, self.params = network, params
        self.interventions, self.per_row = interventions, per_row
        self.stop_tokens = jnp.asarray(list(stop_tokens) or [-1], jnp.int32)
        self.all_slots = all_slots
        self.batch_size, self.role = batch_size, jnp.asarray(role, jnp.int8)
        self.keep, self.watch, self.watch_every = keep, watch, watch_every
        self.stats = Stats()

    def run(
        self, requests: Sequence[Request], prefix: SharedPrefix | None = None
    ) -> Iterator[Sample]:
        """Yields samples as they finish, in no particular order.

        Raises:
            UserError: a request longer than the network's context, a cut beyond
                the prefix, or a prefix made under other interventions.
        """
        self._check(requests, prefix)
        waiting: dict[int, collections.deque] = {}
        for request in sorted(requests, key=lambda r: -len(r.tokens)):
            need = bucket(len(request.tokens) + request.budget)
            waiting.setdefault(need, collections.deque()).append(request)
        for slots in sorted(waiting):
            yield from self._bucket(waiting[slots], slots, prefix)

    def _check(self, requests, prefix):
        context = self.network.config.max_context
        shared = 0 if prefix is None else len(prefix.tokens)
        for request in requests:
            length = request.cut + len(request.tokens) + request.budget
            if length > context:
                raise UserError(
                    found=f"a prompt of {request.cut + len(request.tokens)} tokens and "
                    f"{request.budget} new ones",
                    expected=f"at most {context} together, the context of the network",
                    do="shorten the prompt or ask for fewer tokens",
                )
            if request.cut > shared:
                raise UserError(
                    found=f"a cut of {request.cut}", expected=f"at most {shared}",
                    do="give the shared prefix that the request continues",
                )
        if prefix is not None:
            if self.per_row is not None:
                raise UserError(
                    found="a shared prefix under per-row interventions",
                    expected="one intervention for all rows",
                    do="give whole prompts, or one intervention",
                )
            prefix.require(self.interventions, {r.cut + len(r.tokens) for r in requests})

    def _edited(self, items: np.ndarray) -> Decoder:
        network = self.network
        if self.interventions is not None:
            network = self.interventions(network)
        if self.per_row is not None:
            network = self.per_row(items)(network)
        return network

    def _bucket(self, queue, slots: int, prefix: SharedPrefix | None) -> Iterator[Sample]:
        rows = self.batch_size if self.all_slots else min(
            self.batch_size, bucket(len(queue), 1)
        )
        rows = max(rows, _fewest_rows(self.network))
        budget = bucket(max(r.budget for r in queue))
        items = np.zeros(rows, np.int64)
        network = self._edited(items)
        shared = None if prefix is None else prefix.prefix
        state = empty_slots(
            network, rows, slots, budget, prefix=shared,
            seen=self.params.use_repetition_penalty,
            model_log_probs=self.params.with_model_log_prob,
            tape=empty_tape(network, rows, budget, self.keep),
        ).without_prefix()
        self._count_cache(state, prefix)
        held: dict[int, Request] = {}
        told: dict[int, dict[str, int]] = {}
        refill_at = max(1, rows // 16)
        while queue or held:
            free = [slot for slot in range(rows) if slot not in held]
            if queue and free:
                arriving = [(slot, queue.popleft()) for slot in free[: len(queue)]]
                for slot, request in arriving:
                    held[slot], items[slot] = request, request.item
                if self.per_row is not None:
                    network = self._edited(items)
                state, counts = self._admit(network, state, shared, arriving)
                told.update(counts)
            least = rows - refill_at + 1 if queue else 1
            least = min(least, len(held))
            limit = self.watch_every if self.watch is not None else np.iinfo(np.int32).max
            state, steps, busy = decode_chunk(
                network, state, self.params, self.stop_tokens, self.role,
                jnp.int32(limit), jnp.int32(least), shared,
            )
            self._count(int(steps), int(busy), rows, bool(queue))
            state, done = self._collect(state, held, told)
            self.stats.buckets[slots, rows] = self.stats.buckets.get((slots, rows), 0) + len(done)
            yield from done

    def _admit(self, network, state, shared, arriving):
        """Runs prompts of like length together; returns the state and prompt counts."""
        groups: dict[int, list] = {}
        for slot, request in arriving:
            width = len(request.tokens)
            wide = 1 if width == 1 else bucket(width - 1) + 1
            groups.setdefault(wide, []).append((slot, request))
        told = {}
        for width, group in groups.items():
            rows = piece(len(group), state.rows)
            for start in range(0, len(group), rows):
                part = group[start : start + rows]
                edited = network
                if self.per_row is not None:
                    pick = np.zeros(rows, np.int64)
                    pick[: len(part)] = [request.item for _, request in part]
                    edited = self._edited(pick)
                arrivals = _arrivals(part, rows, width, state.rows)
                state, tape = admit_rows(edited, state, arrivals, shared)
                counts = {name: np.asarray(a) for name, a in tape.items()}
                for index, (slot, _) in enumerate(part):
                    told[slot] = {name: int(a[index]) for name, a in counts.items()}
        return state, told

    def _collect(self, state, held: dict[int, Request], told) -> tuple[object, list[Sample]]:
        active, made, stopped = (
            np.asarray(a) for a in jax.device_get((state.active, state.made, state.stopped))
        )
        ended_by_watch: set[int] = set()
        if self.watch is not None:
            tokens = np.asarray(state.tokens)
            for slot, request in held.items():
                if self.watch(request.item, tokens[slot, : made[slot]]) and active[slot]:
                    ended_by_watch.add(slot)
        done = [slot for slot in held if not active[slot] or slot in ended_by_watch]
        if not done:
            return state, []
        if ended_by_watch:
            off = np.isin(np.arange(state.rows), sorted(ended_by_watch))
            state = dataclasses.replace(state, active=state.active & ~jnp.asarray(off))
        samples, rows = [], piece(len(done), state.rows)
        for start in range(0, len(done), rows):
            part = done[start : start + rows]
            slots = np.asarray(part + [part[-1]] * (rows - len(part)), np.int32)
            fetched = jax.device_get(fetch_rows(state, slots))
            for index, slot in enumerate(part):
                finish = "stop" if stopped[slot] else "length"
                finish = "stop_string" if slot in ended_by_watch else finish
                request, counts = held.pop(slot), told.pop(slot, {})
                samples.append(_sample(request, fetched, index, int(made[slot]), finish, counts))
                self.stats.used_slots += len(request.tokens) + int(made[slot])
                self.stats.held_slots += state.cache.slots
        return state, samples

    def _count(self, steps: int, busy: int, rows: int, waiting: bool) -> None:
        stats = self.stats
        stats.steps += steps
        stats.row_steps += steps * rows
        stats.active_row_steps += busy
        if waiting:
            stats.waiting_row_steps += steps * rows
            stats.waiting_active += busy

    def _count_cache(self, state, prefix: SharedPrefix | None) -> None:
        own = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache.layers))
        total = own + (prefix.nbytes if prefix is not None else 0)
        self.stats.cache_bytes = max(self.stats.cache_bytes, total)


def _fewest_rows(network: Decoder) -> int:
    """Slots that a batch has at least.

    XLA on a CPU multiplies one bfloat16 row by a matrix 10 times slower than two.
    """
    narrow = network.embed.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return 2 if narrow else 1


def piece(count: int, rows: int) -> int:
    """How many of `count` rows, out of a batch of `rows`, are admitted or fetched at once.

    One of two sizes, so that a prompt width is compiled twice at most: everything, or the
    few that a refill brings.
    """
    few = max(1, rows // 16)
    return few if count <= rows // 2 else rows


def _sample(
    request: Request, fetched: Slots, index: int, n: int, finish: Finish, counts: dict[str, int]
) -> Sample:
    """Row `index` of what was fetched, with the counts of its prompt's pass."""
    tape, per_token = {}, []
    for key, array in fetched.tape.items():
        name, value = public_name(key), array[index]
        if is_per_token(key):
            per_token.append(name)
            value = value[:n]
        tape[name] = np.array(value)
    for name, count in counts.items():
        tape[name] = tape.get(name, np.int32(0)) + np.int32(count)
    model = fetched.model_log_probs
    return Sample(
        item=request.item, tokens=fetched.tokens[index, :n].copy(),
        log_probs=fetched.log_probs[index, :n].copy(),
        model_log_probs=model[index, :n].copy() if model.shape[1] else None,
        finish=finish, tape=tape, per_token=tuple(per_token),
    )


def _arrivals(group, rows: int, width: int, slots: int) -> Arrivals:
    """Pads a group of (slot, request) to `rows` rows of `width` tokens."""
    prompt, roles = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.int8)
    slot = np.full(rows, slots, np.int32)
    length = np.ones(rows, np.int32)
    cut, budget = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    keys = [group[0][1].key] * rows
    for index, (where, request) in enumerate(group):
        n = len(request.tokens)
        prompt[index, :n] = request.tokens
        if request.roles is not None:
            roles[index, :n] = request.roles
        slot[index], length[index], cut[index] = where, n, request.cut
        budget[index], keys[index] = request.budget, request.key
    return Arrivals(slot, prompt, roles, length, cut, budget, jnp.stack(keys))
