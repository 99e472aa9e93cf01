"""The compiled decode loop: many tokens for a whole batch, no Python between them."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from interp_jax.generation.collecting import collect
from interp_jax.generation.sampler import row_uniforms, sample
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.generation.slots import Arrivals, Slots, admit
from interp_jax.models.batch import Batch
from interp_jax.models.cache import Prefix
from interp_jax.models.decoder import Decoder


def decode_step(
    network: Decoder, state: Slots, params: SamplingParams, stop_tokens: jax.Array,
    role: jax.Array,
) -> Slots:
    """Feeds one token for each active row and samples the next.

    Args:
        stop_tokens: int32 [E]; a row that samples one of them is finished.
        role: int8 []; the role of sampled tokens.
    """
    cache, active = state.cache, state.active
    batch = Batch.make(
        state.token[:, None], active[:, None], roles=state.role[:, None],
        start=cache.next_position, lengths=cache.lengths, packed=True,
    )
    logits, tape, cache = network.extend(batch, cache, logits_at="last")
    uniforms = row_uniforms(state.keys, state.made)
    seen = state.seen if state.seen.shape[1] else None
    drawn = sample(logits[:, 0], params, uniforms, seen=seen)
    at = jnp.where(active, state.made, jnp.int32(state.tokens.shape[1]))
    rows = jnp.arange(state.rows)
    put = lambda old, new: old.at[rows, at].set(new.astype(old.dtype), mode="drop")
    stop = active & jnp.any(drawn.token[:, None] == stop_tokens[None, :], axis=1)
    made = state.made + active.astype(jnp.int32)
    if seen is not None:
        ids = jnp.where(active, drawn.token, jnp.int32(seen.shape[1]))
        seen = seen.at[rows, ids].set(True, mode="drop")
    model_log_probs = state.model_log_probs
    if model_log_probs.shape[1]:
        model_log_probs = put(model_log_probs, drawn.model_log_prob)
    return dataclasses.replace(
        state,
        cache=cache, token=jnp.where(active, drawn.token, state.token),
        role=jnp.where(active, role, state.role), active=active & ~stop & (made < state.budget),
        stopped=state.stopped | stop, made=made, tokens=put(state.tokens, drawn.token),
        log_probs=put(state.log_probs, drawn.log_prob), model_log_probs=model_log_probs,
        seen=state.seen if seen is None else seen,
        tape=collect(network, state.tape, tape, active, state.made),
    )


@partial(jax.jit, donate_argnames="state")
def decode_chunk(
    network: Decoder, state: Slots, params: SamplingParams, stop_tokens: jax.Array,
    role: jax.Array, max_steps: jax.Array, min_active: jax.Array, prefix: Prefix | None = None,
) -> tuple[Slots, jax.Array, jax.Array]:
    """Decodes until `max_steps`, or until fewer than `min_active` rows go on.

    The old state's buffers are reused; those of `prefix`, which others hold too, are not.

    Args:
        prefix: shared keys and values of a state that was put by without them.

    Returns:
        The state, the number of steps, and row-steps that were active.
    """

    def go_on(carry):
        state, steps, _ = carry
        return (steps < max_steps) & (jnp.sum(state.active, dtype=jnp.int32) >= min_active)

    def step(carry):
        state, steps, busy = carry
        busy = busy + jnp.sum(state.active, dtype=jnp.int32)
        state = decode_step(network, _joined(state, prefix), params, stop_tokens, role)
        state = state if prefix is None else state.without_prefix()
        return state, steps + jnp.int32(1), busy

    zero = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(go_on, step, (state, zero, zero))


@partial(jax.jit, donate_argnames="state")
def admit_rows(
    network: Decoder, state: Slots, arrivals: Arrivals, prefix: Prefix | None = None
) -> tuple[Slots, dict]:
    """`slots.admit`, compiled; buffers and `prefix` as in `decode_chunk`."""
    state, tape = admit(network, _joined(state, prefix), arrivals)
    return (state if prefix is None else state.without_prefix()), tape


def _joined(state: Slots, prefix: Prefix | None) -> Slots:
    if prefix is None:
        return state
    return dataclasses.replace(state, cache=dataclasses.replace(state.cache, prefix=prefix))


@jax.jit
def fetch_rows(state: Slots, slots: jax.Array) -> Slots:
    """What rows `slots` [R] made, without cache and keys: nothing else leaves the device."""
    pick = lambda a: jnp.take(a, slots, axis=0)
    return dataclasses.replace(
        state, cache=None, keys=None, seen=None, token=None, role=None, active=None,
        stopped=None, budget=None, made=None, tokens=pick(state.tokens),
        log_probs=pick(state.log_probs), model_log_probs=pick(state.model_log_probs),
        tape=jax.tree.map(pick, state.tape),
    )
