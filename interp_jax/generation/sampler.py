"""The sampler: one uniform per row, no sort of the vocabulary, filters that are exact.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p. A row's
token depends on its own logits, parameters and uniform only.

Cost is counted in passes over the logits [B, V]. Greedy takes one (block maxima; XLA's own
argmax is 60 times slower on a CPU). Plain sampling takes two: maximum, and exponentials summed
by block. A filter adds no further one as long as the tokens that pass lie in the row's
`CANDIDATE_BLOCKS` blocks of greatest maximum: those alone are searched. That is proven per row,
after the search; rows for which it fails (flat distributions) are searched whole, a few at a
time, and only they pay for it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.generation.filters import RowNumbers, filter_blocks, tempered_mass
from interp_jax.generation.inverse_cdf import BLOCK, draw, rows_block
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.runtime.errors import UserError

CANDIDATE_BLOCKS = 64
"""Blocks that are searched first: any nucleus or top-k of up to 64 tokens fits, many do beyond."""

_WHOLE_ROWS_AT_ONCE = {"cpu": 2}
"""Rows searched whole at a time: few on a CPU, so that they stay in a core's cache (0.2 MB each);
elsewhere all of them, since a loop of small kernels is what costs there."""


class Sampled(NamedTuple):
    """One token per row.

    Attributes:
        token: int32 [B].
        log_prob: f32 [B], natural logarithm of the token's probability in the filtered, tempered
            distribution that it was drawn from (0 when greedy).
        model_log_prob: f32 [B], its log-probability under the raw logits at temperature 1; None
            unless `params.with_model_log_prob`.
    """

    token: jax.Array
    log_prob: jax.Array
    model_log_prob: jax.Array | None


def row_uniforms(keys: jax.Array, step: jax.Array) -> jax.Array:
    """One uniform per row, from the row's own key and its own step.

    Args:
        keys: typed keys [B].
        step: int32 [B], the number of the token within the sample.

    Returns:
        f32 [B] in [0, 1).
    """

    def one(key, number):
        return jax.random.uniform(jax.random.fold_in(key, number), dtype=jnp.float32)

    return jax.vmap(one)(keys, step)


def sample(
    logits: jax.Array,
    params: SamplingParams,
    uniforms: jax.Array,
    *,
    seen: jax.Array | None = None,
) -> Sampled:
    """Draws one token per row.

    Args:
        logits: f32 [B, V], finite or -inf (a token that must not come).
        params: temperature and filters, scalars or one per row.
        uniforms: f32 [B] in [0, 1); see `row_uniforms`. Not read when greedy.
        seen: Bool[B, V], tokens that the repetition penalty applies to; needed with that filter.

    Returns:
        `Sampled`. A filtered token never comes out, whatever the uniform. A row without a finite
        logit gives token 0 with log-probability -inf.

    Raises:
        UserError: shapes or dtypes that do not fit, or `seen` missing.
    """
    _check(logits, params, uniforms, seen)
    penalised = _penalise(logits, params, seen)
    blocks = _in_blocks(penalised)
    maxima = blocks.max(axis=2)
    if params.greedy:
        token = _first_greatest(blocks, maxima)
        log_prob = jnp.zeros(logits.shape[0], jnp.float32)
        log_prob = jnp.where(maxima.max(axis=1) > -jnp.inf, log_prob, -jnp.inf)
    else:
        numbers = _row_numbers(params, maxima)
        token, total = _draw(blocks, maxima, numbers, params, uniforms)
        chosen = jnp.take_along_axis(penalised, token[:, None], axis=1)[:, 0]
        log_prob = (chosen - numbers.top) / numbers.temperature - jnp.log(total)
        log_prob = jnp.where(total > 0, log_prob, -jnp.inf)
    model_log_prob = None
    if params.with_model_log_prob:
        raw = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
        model_log_prob = raw - jax.nn.logsumexp(logits, axis=1)
    return Sampled(token, log_prob, model_log_prob)


def filtered_probabilities(
    logits: jax.Array, params: SamplingParams, *, seen: jax.Array | None = None
) -> jax.Array:
    """The distribution that `sample` draws from: f32 [B, V], rows sum to 1.

    For looking at and for tests; it searches every row whole. Arguments and errors as for
    `sample`. Greedy gives all mass to one token.
    """
    rows, vocabulary = logits.shape
    _check(logits, params, jnp.zeros(rows, jnp.float32), seen)
    blocks = _in_blocks(_penalise(logits, params, seen))
    maxima = blocks.max(axis=2)
    if params.greedy:
        return jax.nn.one_hot(_first_greatest(blocks, maxima), vocabulary, dtype=jnp.float32)
    numbers = _with_total(blocks, _row_numbers(params, maxima), params)
    mass = _kept_mass(blocks, numbers, params)
    mass = mass.reshape(rows, -1)[:, :vocabulary]
    return mass / mass.sum(axis=1, keepdims=True)


def _check(logits, params, uniforms, seen):
    if logits.ndim != 2 or logits.dtype != jnp.float32:
        raise UserError(
            found=f"logits of shape {logits.shape} and dtype {logits.dtype}",
            expected="float32 [B, V]",
            do="cast or reshape the logits",
        )
    rows = logits.shape[0]
    if uniforms.shape != (rows,):
        raise UserError(
            found=f"uniforms of shape {uniforms.shape}",
            expected=f"one per row, ({rows},)",
            do="make them with row_uniforms",
        )
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        shape = getattr(params, name).shape
        if shape not in ((), (rows,)):
            raise UserError(
                found=f"{name} of shape {shape} for {rows} rows",
                expected="a scalar or one value per row",
                do=f"pass a {name} that fits the batch",
            )
    if params.use_repetition_penalty and (seen is None or seen.shape != logits.shape):
        raise UserError(
            found="no `seen`" if seen is None else f"`seen` of shape {seen.shape}",
            expected=f"a mask of shape {logits.shape}, since there is a repetition penalty",
            do="pass which tokens each row has seen",
        )


def _per_row(value, rows):
    return jnp.broadcast_to(value, (rows,))


def _penalise(logits, params, seen):
    """Keskar et al. 2019 (CTRL), section 4.1, with the sign rule of transformers."""
    if not params.use_repetition_penalty:
        return logits
    penalty = _per_row(params.repetition_penalty, logits.shape[0])[:, None]
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def _in_blocks(logits):
    """[B, V] -> [B, N, BLOCK], filled up with -inf."""
    rows, vocabulary = logits.shape
    missing = -vocabulary % BLOCK
    if missing:
        logits = jnp.pad(logits, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    return logits.reshape(rows, -1, BLOCK)


def _first_greatest(blocks, maxima):
    """Argmax, the lowest id among equals, from the block maxima."""
    top = maxima.max(axis=1, keepdims=True)
    slot = _first(maxima == top)
    place = _first(rows_block(blocks, slot) == top)
    return slot * BLOCK + place


def _first(mask):
    """Index of the first True of each row; in range for a row without any (NaN logits)."""
    width = mask.shape[1]
    index = jnp.where(mask, jnp.arange(width, dtype=jnp.int32)[None, :], jnp.int32(width - 1))
    return index.min(axis=1)


def _row_numbers(params, maxima):
    rows = maxima.shape[0]
    top = maxima.max(axis=1)
    return RowNumbers(
        top=jnp.where(top > -jnp.inf, top, jnp.float32(0)),
        total=jnp.zeros(rows, jnp.float32),
        temperature=_per_row(params.temperature, rows),
        top_p=_per_row(params.top_p, rows),
        top_k=_per_row(params.top_k, rows),
        min_p=_per_row(params.min_p, rows),
    )


def _with_total(blocks, numbers, params):
    """Adds the mass of the whole vocabulary, where the nucleus is measured against it."""
    if not params.use_top_p or params.use_top_k:
        return numbers
    return numbers._replace(total=tempered_mass(blocks, numbers).sum(axis=2).sum(axis=1))


def _kept_mass(blocks, numbers, params):
    return filter_blocks(
        blocks,
        numbers,
        use_top_k=params.use_top_k,
        use_top_p=params.use_top_p,
        use_min_p=params.use_min_p,
    ).mass


def _draw(blocks, maxima, numbers, params, uniforms):
    """Token int32 [B] and the mass of all tokens that pass, f32 [B]."""
    numbers = _with_total(blocks, numbers, params)
    searched = params.use_top_k or params.use_top_p
    if not searched or blocks.shape[1] <= CANDIDATE_BLOCKS:
        return _draw_whole(blocks, numbers, params, uniforms)

    # One block more than is searched: no logit outside them exceeds its maximum.
    # The barrier keeps XLA from merging the slices into it, which turns it into a full sort of
    # the maxima (6 ms instead of 0.4).
    greatest, slots = jax.lax.optimization_barrier(jax.lax.top_k(maxima, CANDIDATE_BLOCKS + 1))
    slots = jnp.sort(slots[:, :CANDIDATE_BLOCKS], axis=1)  # the order of the token ids
    candidates = jax.vmap(lambda row, index: row[index])(blocks, slots)
    kept = filter_blocks(
        candidates,
        numbers,
        use_top_k=params.use_top_k,
        use_top_p=params.use_top_p,
        use_min_p=params.use_min_p,
        floor=greatest[:, -1],
    )
    slot, place = draw(kept.mass, uniforms)
    token = jnp.take_along_axis(slots, slot[:, None], axis=1)[:, 0] * BLOCK + place
    total = kept.mass.sum(axis=2).sum(axis=1)
    return _redraw_wide_rows(blocks, numbers, params, uniforms, kept.complete, (token, total))


def _draw_whole(blocks, numbers, params, uniforms):
    mass = _kept_mass(blocks, numbers, params)
    slot, place = draw(mass, uniforms)
    return slot * BLOCK + place, mass.sum(axis=2).sum(axis=1)


def _redraw_wide_rows(blocks, numbers, params, uniforms, complete, drawn):
    """Draws again, over the whole vocabulary, the rows whose candidates were not enough."""
    rows = blocks.shape[0]
    at_once = min(rows, _WHOLE_ROWS_AT_ONCE.get(jax.default_backend(), rows))
    wide = (~complete).sum(dtype=jnp.int32)
    order = jnp.argsort(complete, stable=True).astype(jnp.int32)  # the wide rows first
    order = jnp.pad(order, (0, -rows % at_once), constant_values=0)

    def body(state):
        start, (token, total) = state
        picked = jax.lax.dynamic_slice_in_dim(order, start, at_once)
        part = jax.tree.map(lambda leaf: leaf[picked], (blocks, numbers, uniforms))
        new_token, new_total = _draw_whole(*part[:2], params, part[2])
        # Beyond the last wide row there is nothing to write.
        inside = start + jnp.arange(at_once, dtype=jnp.int32) < wide
        target = jnp.where(inside, picked, jnp.int32(rows))
        drawn = (
            token.at[target].set(new_token, mode="drop"),
            total.at[target].set(new_total, mode="drop"),
        )
        return start + at_once, drawn

    _, drawn = jax.lax.while_loop(lambda state: state[0] < wide, body, (jnp.int32(0), drawn))
    return drawn
