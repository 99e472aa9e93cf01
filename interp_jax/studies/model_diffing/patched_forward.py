"""One batch of the causality experiment, in one compiled program.

Both models run once. Each condition makes an activation after the crosscoder's layer, and the
chat model's later layers go on from it. Its final stream meets the head a few positions at a
time, beside the chat model's own, so that logits of no more than those positions exist.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.replaced_tokens import (
    Replacements,
    replaced,
    require_replaceable,
)
from interp_jax.dictionaries.sparse import decode_rows
from interp_jax.interventions.placing import compose
from interp_jax.interventions.reads import Read
from interp_jax.interventions.verbs import read, replace
from interp_jax.models import roles
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.active_pairs import active_pairs
from interp_jax.studies.model_diffing.conditions import Table
from interp_jax.studies.model_diffing.moments import require_pair
from interp_jax.studies.model_diffing.positions import FIRST, SETS, position_sets

METRICS = ("kl", "kl_squared", "kl_from_base", "nll", "nll_of_top")


@dataclasses.dataclass(frozen=True)
class PatchPlan:
    """The static part.

    Attributes:
        layer: the crosscoder reads `resid_post[layer]` of both models.
        base, chat: which inputs and outputs of the dictionary are theirs.
        capacity: active latents per token that fit; tokens with more are told by `overfull`.
        rows_at_once: tokens that gather decoder rows at once.
        conditions_at_once: conditions run side by side; memory grows with it.
        skip_first: positions at the start of each row that latents leave alone.
        replace_tokens: (old id, new id) pairs in what the base model reads, see `replaced_tokens`.
        first: see `positions`.
        positions: how many positions have logits at once.
    """

    layer: int
    base: int = 0
    chat: int = 1
    capacity: int = 512
    rows_at_once: int = 1
    conditions_at_once: int = 1
    skip_first: int = 0
    replace_tokens: Replacements = ()
    first: int = FIRST
    positions: int = 64


class PatchedSums(NamedTuple):
    """Sums over each row's positions.

    Attributes:
        sums: float32 [Q + 1, len(METRICS), len(SETS), B], in nats; the last condition is the base
            model itself. `kl`: KL(chat || patched); `kl_squared`: its square; `kl_from_base`:
            KL(base || patched); `nll`: of the token that follows; `nll_of_top`: of the chat
            model's most probable token.
        counts: float32 [len(SETS), B], positions.
        overfull: int32 [], tokens with more active latents than fit.
        touched: int32 [Q], tokens whose activation was replaced.
    """

    sums: jax.Array
    counts: jax.Array
    overfull: jax.Array
    touched: jax.Array


def require_patchable(
    base: Decoder, chat: Decoder, dictionary: Dictionary, plan: PatchPlan
) -> None:
    """Raises UserError unless the two networks and the dictionary belong together."""
    require_pair(dictionary, plan.base, plan.chat)
    c = dictionary.config
    if c.inputs != 2 or c.decoupled:
        raise UserError(
            found="a dictionary with a code for each model" if c.decoupled
            else f"a dictionary of {c.inputs} inputs",
            expected="a crosscoder of two models with one code",
            do="leave the causality experiment out",
        )  # fmt: skip
    for name, network in (("base", base), ("chat", chat)):
        own = network.config
        if own.width != c.width or plan.layer >= own.n_layers - 1 or plan.layer < 0:
            raise UserError(
                found=f"a {name} network of width {own.width} and {own.n_layers} layers, for a "
                f"dictionary of width {c.width} at layer {plan.layer}",
                expected="the dictionary's width, and a layer with another one after it",
                do="use the networks and the layer that the dictionary was trained on",
            )
    if base.config.vocab_size != chat.config.vocab_size:
        raise UserError(
            found=f"vocabularies of {base.config.vocab_size} and {chat.config.vocab_size}",
            expected="the same one", do="compare models that share a tokenizer",
        )
    require_replaceable(plan.replace_tokens, base.config.vocab_size)


def layers_after(network: Decoder, layer: int) -> Decoder:
    """The part of a network after block `layer`; its `embed` is what stands there.

    Given its stream by `replace("embed", ...)` it ends as the whole network would.
    """
    blocks = tuple(network.blocks()[layer + 1 :])
    config = dataclasses.replace(network.config, n_layers=len(blocks))
    after = dataclasses.replace(network, segments=blocks, config=config)
    return after.with_layout(network.layout)


@partial(jax.jit, static_argnames=("plan",))
def patched_sums(
    base: Decoder,
    chat: Decoder,
    after: Decoder,
    dictionary: Dictionary,
    rows: jax.Array,
    conditions: Table,
    batch: Batch,
    plan: PatchPlan,
) -> PatchedSums:
    """Runs every condition on a batch of conversations.

    Args:
        base, chat: whole networks. after: `layers_after(chat, plan.layer)`.
        dictionary: encodes the pair of activations, by its threshold.
        rows: of `conditions.rows_table`.
        conditions: Q of them.
        batch: single conversations with roles.
        plan: static.
    """
    # Packed columns throughout: a row's next token stands beside it.
    batch = dataclasses.replace(batch, order=None)
    shape, width = batch.tokens.shape, base.config.width
    h_base, end_base = _streams(base, replaced(batch, plan.replace_tokens), plan.layer)
    h_chat, end_chat = _streams(chat, batch, plan.layer)
    flat = lambda h: h.reshape(-1, width)
    x = jnp.zeros((batch.tokens.size, 2, width), jnp.float32)
    x = x.at[:, plan.base].set(flat(h_base)).at[:, plan.chat].set(flat(h_chat))
    with jax.default_matmul_precision("highest"):
        code = jnp.where(batch.valid.reshape(-1, 1), dictionary.encode(x), 0.0)
    pairs = active_pairs(code, plan.capacity)
    template = batch.roles == roles.TEMPLATE
    writable = batch.positions >= plan.skip_first

    def patched(condition: Table):
        amount = pairs.values * condition.weights[pairs.latents]
        place = pairs.latents + condition.rows * dictionary.config.latents
        with jax.default_matmul_precision("highest"):
            written = decode_rows(amount, place, rows, plan.rows_at_once).reshape(h_base.shape)
        here = writable & (template | ~condition.template_only)
        share = jnp.where(template, condition.template_share, condition.share)[..., None]
        # Exact at both ends.
        h = (1 - share) * h_base + share * h_chat + jnp.where(here[..., None], written, 0.0)
        return _end(after, h, batch)

    ends, touched = jax.lax.map(patched, conditions, batch_size=plan.conditions_at_once)
    ends = jnp.concatenate([ends, end_base[None]])
    sets = position_sets(batch, plan.first)
    sums = _compared(base, chat, ends, end_base, end_chat, sets, batch, plan.positions)
    counts = jnp.sum(sets.astype(jnp.float32), axis=2)
    assert sums.shape == (ends.shape[0], len(METRICS), len(SETS), shape[0])
    return PatchedSums(sums, counts, pairs.overfull, touched)


def _streams(network: Decoder, batch: Batch, layer: int) -> tuple[jax.Array, jax.Array]:
    """float32 [B, T, D] after block `layer` and after the last block."""
    last = network.config.n_layers - 1
    reads = compose(
        read(Site("resid_post", (layer,)), name="at"),
        read(Site("resid_post", (last,)), name="end"),
    )
    _, tape = reads(network)(batch, logits_at="none")
    return tape["at"][0].astype(jnp.float32), tape["end"][0]


def _end(after: Decoder, stream: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """What the last block makes of a stream [B, T, D], and how many tokens were replaced."""
    last = Read("end", Site("resid_post", (after.config.n_layers - 1,)))
    edited = compose(replace("embed", stream, name="patched"), last)(after)
    _, tape = edited(batch, logits_at="none")
    return tape["end"][0], jnp.sum(tape["touched/patched"], dtype=jnp.int32)


def _compared(base, chat, ends, end_base, end_chat, sets, batch: Batch, at_once: int):
    """[Q + 1, metrics, sets, B] sums over the positions of each set, a few positions at a time."""
    rows, length = batch.tokens.shape
    flat = lambda a: a.reshape(*a.shape[: a.ndim - 3], rows * length, a.shape[-1])
    ends, end_base, end_chat = flat(ends), flat(end_base), flat(end_chat)
    follows = jnp.pad(batch.tokens[:, 1:], ((0, 0), (0, 1))).reshape(-1)
    member = sets.reshape(sets.shape[0], -1)
    asked = jnp.any(member, axis=0)
    # Positions that are asked for come first; what is beyond them is never computed.
    order = jnp.argsort(~asked, stable=True)
    order = jnp.pad(order, (0, -order.shape[0] % at_once))
    count = jnp.sum(asked, dtype=jnp.int32)
    told = lambda network, x: jax.nn.log_softmax(
        network.unembed(x[None])[0].astype(jnp.float32), axis=-1
    )

    def step(number, total):
        place = jax.lax.dynamic_slice_in_dim(order, number * at_once, at_once)
        live = number * at_once + jnp.arange(at_once) < count
        target, plain = told(chat, end_chat[place]), told(base, end_base[place])
        top = jnp.argmax(target, axis=-1)

        def one(end):
            mine = told(chat, end[place])
            return _metrics(target, plain, mine, follows[place], top)

        # One loop body for all conditions: equal streams have equal logits, to the bit.
        values = jax.lax.map(one, ends[:-1])
        own = _metrics(target, plain, plain, follows[place], top)
        values = jnp.concatenate([values, own[None]])
        values = jnp.where(live[None, None], values, 0.0)
        inside = (member[:, place] & live[None]).astype(jnp.float32)
        of_row = jax.nn.one_hot(place // length, rows, dtype=jnp.float32)
        return total + jnp.einsum(
            "qmp,sp,pb->qmsb", values, inside, of_row, precision=jax.lax.Precision.HIGHEST
        )

    shape = (ends.shape[0], len(METRICS), sets.shape[0], rows)
    chunks = (count + at_once - 1) // at_once
    return jax.lax.fori_loop(0, chunks, step, jnp.zeros(shape, jnp.float32))


def _metrics(target, plain, mine, follows, top) -> jax.Array:
    """[metrics, P] from log-probabilities [P, V]."""
    divergence = lambda p, q: jnp.sum(jnp.exp(p) * (p - q), axis=-1)
    picked = lambda index: -jnp.take_along_axis(mine, index[:, None], axis=-1)[:, 0]
    kl = divergence(target, mine)
    return jnp.stack(
        [kl, jnp.square(kl), divergence(plain, mine), picked(follows), picked(top)]
    )
