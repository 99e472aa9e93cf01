"""The device state of a running batch: one slot for each row being generated.

A slot knows its cache, its next token and its own key, so what it samples does
not depend on its neighbours or on which slot it got. The token that is fed
next has not been run yet: a fresh row starts by feeding the last token of its
prompt, which is why a row that shares a prefix needs no prefill at all.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from interp_jax.generation.collecting import counts_of
from interp_jax.models import tree as struct
from interp_jax.models.batch import Batch
from interp_jax.models.cache import Cache, Prefix, map_keys
from interp_jax.models.decoder import Decoder


@struct.pytree_dataclass
class Slots(struct.Struct):
    """B rows in flight.

    Attributes:
        cache: keys and values of everything that was run.
        token: int32 [B]; the next token to feed. role: int8 [B]; its role.
        active: bool [B]; whether the row goes on.
        stopped: bool [B]; whether the row ended with a stop token.
        budget: int32 [B]; how many tokens it may generate.
        made: int32 [B]; how many it has generated.
        tokens: int32 [B, M]; what it generated.
        log_probs, model_log_probs: float32 [B, M]; of those tokens, under the
            distribution they were drawn from and under the plain model; the
            second is [B, 0] unless asked for.
        keys: typed keys [B]; one per sample.
        seen: bool [B, V] under a repetition penalty, else [B, 0].
        tape: name -> what was read and counted so far, see `collecting`.
    """

    cache: Cache
    token: jax.Array
    role: jax.Array
    active: jax.Array
    stopped: jax.Array
    budget: jax.Array
    made: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    model_log_probs: jax.Array
    keys: jax.Array
    seen: jax.Array
    tape: dict[str, jax.Array]

    @property
    def rows(self) -> int:
        """Number of slots."""
        return self.token.shape[0]

    def without_prefix(self) -> Slots:
        """The same state, its shared prefix left to whoever else holds it."""
        return dataclasses.replace(self, cache=dataclasses.replace(self.cache, prefix=None))


def empty_slots(
    network: Decoder, rows: int, slots: int, budget: int, *, prefix: Prefix | None = None,
    seen: bool = False, model_log_probs: bool = False, tape: dict[str, jax.Array] | None = None,
) -> Slots:
    """`rows` idle slots with room for `slots` own tokens and `budget` new ones each."""
    fill = lambda value, dtype: jnp.full((rows,), value, dtype)
    room = lambda width: jnp.zeros((rows, width), jnp.float32)
    return Slots(
        cache=network.empty_cache(rows, slots, prefix),
        token=fill(0, jnp.int32), role=fill(0, jnp.int8), active=fill(False, bool),
        stopped=fill(False, bool), budget=fill(0, jnp.int32), made=fill(0, jnp.int32),
        tokens=jnp.zeros((rows, budget), jnp.int32), log_probs=room(budget),
        model_log_probs=room(budget if model_log_probs else 0),
        keys=jax.random.split(jax.random.key(0), rows),
        seen=jnp.zeros((rows, network.config.vocab_size if seen else 0), bool),
        tape=tape or {},
    )


@struct.pytree_dataclass
class Arrivals(struct.Struct):
    """R rows that enter the batch, padded to a bucket.

    Attributes:
        slot: int32 [R]; where each goes; the number of slots for padding.
        prompt, roles: [R, T]; own tokens, the last one included.
        length: int32 [R]; own tokens.
        cut: int32 [R]; how much of the shared prefix the row sees.
        budget: int32 [R]. keys: typed keys [R].
    """

    slot: jax.Array
    prompt: jax.Array
    roles: jax.Array
    length: jax.Array
    cut: jax.Array
    budget: jax.Array
    keys: jax.Array


def admit(network: Decoder, state: Slots, arrivals: Arrivals) -> tuple[Slots, dict]:
    """Puts rows into slots, running their prompts but for the last token.

    Returns:
        The new state, and the counts of the prompts' pass, int32 [R] each.
    """
    rows, width = arrivals.prompt.shape
    before = arrivals.length - jnp.int32(1)
    tape = {}
    cache = dataclasses.replace(
        network.empty_cache(rows, max(width - 1, 1), state.cache.prefix),
        cut=arrivals.cut, lengths=arrivals.cut + arrivals.length,
    )
    if width > 1:
        valid = jnp.arange(width - 1, dtype=jnp.int32)[None, :] < before[:, None]
        batch = Batch.make(
            arrivals.prompt[:, :-1], valid, roles=arrivals.roles[:, :-1], start=arrivals.cut,
            lengths=cache.lengths, packed=True,
        )
        _, tape, cache = network.extend(batch, cache, logits_at="none", fresh=True)
    slot, at = arrivals.slot, before[:, None]
    last = lambda a: jnp.take_along_axis(a, at, axis=1)[:, 0]
    put = lambda old, new: old.at[slot].set(new.astype(old.dtype), mode="drop")
    fill = lambda old: old.at[slot].set(jnp.zeros((), old.dtype), mode="drop")
    seen = state.seen
    if seen.shape[1]:
        own = jnp.arange(width, dtype=jnp.int32)[None, :] < arrivals.length[:, None]
        ids = jnp.where(own, arrivals.prompt, jnp.int32(seen.shape[1]))
        fresh = jnp.zeros((rows, seen.shape[1]), bool)
        fresh = fresh.at[jnp.arange(rows)[:, None], ids].set(True, mode="drop")
        if state.cache.prefix is not None:
            prefix = state.cache.prefix
            shown = prefix.valid & (
                jnp.arange(prefix.tokens.shape[1])[None, :] < arrivals.cut[:, None]
            )
            ids = jnp.where(shown, prefix.tokens, jnp.int32(seen.shape[1]))
            fresh = fresh.at[jnp.arange(rows)[:, None], ids].set(True, mode="drop")
        seen = put(seen, fresh)
    state = dataclasses.replace(
        state,
        cache=_insert(state.cache, cache, slot, before),
        token=put(state.token, last(arrivals.prompt)), role=put(state.role, last(arrivals.roles)),
        active=put(state.active, arrivals.budget > 0), stopped=fill(state.stopped),
        budget=put(state.budget, arrivals.budget), made=fill(state.made),
        tokens=fill(state.tokens), log_probs=fill(state.log_probs),
        model_log_probs=fill(state.model_log_probs),
        keys=state.keys.at[slot].set(arrivals.keys, mode="drop"), seen=seen,
        tape={n: fill(a) for n, a in state.tape.items()},
    )
    return state, counts_of(network, tape)


def _insert(cache: Cache, new: Cache, slot, used) -> Cache:
    """Writes the rows of a small cache into `slot` of the running one."""
    width = new.slots

    def row(old, fresh, *index):
        at = (slot, *index) if old.ndim == 4 else (slice(None), slot, *index)
        return old.at[at].set(fresh, mode="drop")

    layers = map_keys(
        lambda old, fresh: row(old, fresh, slice(None), slice(None), slice(width)),
        lambda old, fresh: row(old, fresh, slice(None), slice(width)),
        cache.layers, new.layers,
    )
    put = lambda old, value: old.at[slot].set(value, mode="drop")
    return dataclasses.replace(
        cache, layers=layers, used=put(cache.used, used), cut=put(cache.cut, new.cut),
        lengths=put(cache.lengths, new.lengths),
        tokens=cache.tokens.at[slot, :width].set(new.tokens, mode="drop"),
        roles=cache.roles.at[slot, :width].set(new.roles, mode="drop"),
    )
