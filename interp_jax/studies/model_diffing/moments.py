"""One streaming pass over activations: every sum that Latent Scaling needs, for all latents.

A least-squares coefficient of a latent needs sums over tokens of its code, its code squared, and
its code times the inner product of its vector with a target. With the raw residual and the
reconstruction of each model as targets, every other target follows (`latent_scaling`), and only
active (token, latent) pairs are touched. The sums are kept per group of documents, so that the
spread between groups tells how sure a coefficient is, and with the rounding of each addition
carried along, so that 50 million tokens add up in float32.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries import metrics
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.active_pairs import (
    EXACT,
    ActivePairs,
    active_pairs,
    decode_pairs,
    pair_products,
)

MODELS = ("base", "chat")
TARGETS = ("reconstruction", "residual")
# Of the code alone: how often it is active, its sum, its sum of squares, and its product with the
# code that each model's own reconstruction has (the same code, unless decoupled).
CODE_SUMS = ("active", "code", "square", "own_base", "own_chat")


@dataclasses.dataclass(frozen=True)
class MomentsPlan:
    """The static part of a pass.

    Attributes:
        vectors: names of the W vector tables; the first is the latents' own.
        base, chat: which outputs of the dictionary are the two models'.
        groups: G; documents are dealt to groups.
        capacity: active latents per token that are held as pairs. A batch in which a token has
            more is computed densely, with the same numbers and more work.
        rows_at_once: tokens that gather vectors at once; 1 on a CPU, many on an accelerator.
    """

    vectors: tuple[str, ...] = ("own",)
    base: int = 0
    chat: int = 1
    groups: int = 16
    capacity: int = 512
    rows_at_once: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """What the last axis of the sums holds."""
        products = [f"{v}/{t}_{m}" for v in self.vectors for t in TARGETS for m in MODELS]
        return (*CODE_SUMS, *products)


class Moments(NamedTuple):
    """What the pass accumulates. A pytree, to be saved and gone on with.

    Attributes:
        high, low: float32 [G, F, S], the sums of `MomentsPlan.names` and what rounding left over.
        largest: float32 [F], the largest scaled code.
        rows: int32 [], tokens counted.
        quality: for FVE and L0, see `dictionaries.metrics`.
        dense_batches: int32 [], batches that did not fit the capacity.
    """

    high: jax.Array
    low: jax.Array
    largest: jax.Array
    rows: jax.Array
    quality: metrics.Sums
    dense_batches: jax.Array


def require_pair(dictionary: Dictionary, base: int, chat: int) -> None:
    """Raises UserError unless the dictionary reconstructs what it reads and has both outputs."""
    c = dictionary.config
    fits = (c.inputs, c.width) == (c.outs, c.out_width) and c.inputs > 1
    if not fits or base == chat or not {base, chat} <= set(range(c.outs)):
        raise UserError(
            found=f"a dictionary of {c.inputs} inputs and {c.outs} outputs, models at outputs "
            f"{base} and {chat}",
            expected="a crosscoder that reconstructs its inputs, and two of its outputs",
            do="give a crosscoder of two models, and say which outputs are theirs",
        )


def no_moments(dictionary: Dictionary, plan: MomentsPlan) -> Moments:
    """The sums before the first token.

    Raises:
        UserError: not a crosscoder of two models.
    """
    require_pair(dictionary, plan.base, plan.chat)
    c = dictionary.config
    sums = jnp.zeros((plan.groups, c.latents, len(plan.names)), jnp.float32)
    empty = lambda: metrics.Spread(
        jnp.zeros(()), jnp.zeros((c.outs, c.out_width)), jnp.zeros((c.outs,))
    )
    none = lambda: jnp.zeros((), jnp.float32)
    quality = metrics.Sums(empty(), empty(), none(), jnp.zeros((c.latents,)), none(), none())
    count = lambda: jnp.zeros((), jnp.int32)
    return Moments(
        sums, jnp.zeros_like(sums), jnp.zeros((c.latents,)), count(), quality, count()
    )


def vector_tables(dictionary: Dictionary, plan: MomentsPlan, key: jax.Array) -> jax.Array:
    """float32 [W, F, D]: the latents' own vectors, and controls of the same norms.

    A latent's own vector is its decoder row for the chat model, for targets of both models.
    Controls: `random`, a uniform direction of its own for each latent; `shuffled`, another
    latent's row.

    Args:
        key: typed key of the controls.

    Raises:
        UserError: a table of another name.
    """
    own = dictionary.written_rows(plan.chat)
    norms = jnp.linalg.norm(own, axis=1, keepdims=True)
    tables = []
    for name in plan.vectors:
        draw = keys.fold(key, "vectors", name)
        if name == "own":
            tables.append(own)
            continue
        if name == "random":
            other = jax.random.normal(draw, own.shape)
        elif name == "shuffled":
            other = own[_derangement(draw, own.shape[0])]
        else:
            raise UserError(
                found=f"a table of vectors {name!r}", expected="own, random or shuffled",
                do="correct the name",
            )
        length = jnp.linalg.norm(other, axis=1, keepdims=True)
        tables.append(other * norms / jnp.where(length > 0, length, 1.0))
    return jnp.stack(tables)


def _derangement(key: jax.Array, count: int) -> jax.Array:
    """A random cycle through all latents, so that none gets its own row."""
    order = jax.random.permutation(key, count)
    return jnp.zeros((count,), order.dtype).at[order].set(jnp.roll(order, 1))


@partial(jax.jit, static_argnames=("plan",), donate_argnames=("moments",))
@jax.default_matmul_precision("highest")  # else a GPU rounds codes and residuals to 10 bits
def add_moments(
    moments: Moments,
    dictionary: Dictionary,
    x: jax.Array,
    keep: jax.Array,
    group: jax.Array,
    vectors: jax.Array,
    plan: MomentsPlan,
    floor: jax.Array | None = None,
) -> Moments:
    """The sums with one more batch of tokens in them.

    Args:
        moments: before; given away.
        dictionary: frozen. Codes are those of inference, unscaled.
        x: [N, M, D], the models' activations on the same tokens.
        keep: bool [N]; other tokens are not counted.
        group: int32 [N] in 0..G-1, of each token's document.
        vectors: of `vector_tables`.
        plan: static.
        floor: float32 [F]: where a scaled code lies below it, the token does not count for
            that latent (but for the reconstruction it does). None: every active token counts.
    """
    x = dictionary.rows(x)
    # What is not kept may be anything, and 0 * NaN would be counted.
    x = jnp.where(keep[:, None, None], x, 0.0)
    code = dictionary.encode(x)
    code = jnp.where(keep.reshape(-1, *(1,) * (code.ndim - 1)), code, 0.0)
    scaled = dictionary.scaled(code)
    if dictionary.config.decoupled:
        fits = jnp.zeros((), bool)
        reconstruction = dictionary.decode(code, x)
        out = _dense(plan, code, scaled, x, reconstruction, group, vectors, floor)
        scaled = jnp.sum(scaled, axis=1)
    else:
        pairs = active_pairs(code, plan.capacity)
        fits = pairs.overfull == 0

        def sparsely():
            reconstruction = decode_pairs(dictionary, pairs, x, plan.rows_at_once)
            limit = None if floor is None else _in_code(floor, dictionary.scale())
            sums = _sparse(plan, pairs, x, reconstruction, group, vectors, limit)
            return sums, reconstruction

        def densely():
            reconstruction = dictionary.decode(code, x)
            return _dense(plan, code, scaled, x, reconstruction, group, vectors, floor)

        out = jax.lax.cond(fits, sparsely, densely)
    sums, reconstruction = out
    high, low = _compensated(moments.high, moments.low, sums)
    return Moments(
        high, low,
        jnp.maximum(moments.largest, jnp.max(scaled, axis=0)),
        moments.rows + jnp.sum(keep, dtype=jnp.int32),
        metrics.merge(moments.quality, _quality(x, reconstruction, code, keep)),
        moments.dense_batches + (~fits).astype(jnp.int32),
    )


def _targets(plan: MomentsPlan, x: jax.Array, reconstruction: jax.Array) -> jax.Array:
    """[N, 4, D], in the order of `MomentsPlan.names`."""
    both = jnp.asarray([plan.base, plan.chat])
    told = reconstruction[:, both]
    return jnp.concatenate([told, x[:, both] - told], axis=1)


def _sparse(plan, pairs: ActivePairs, x, reconstruction, group, vectors, limit) -> jax.Array:
    """[G, F, S] from the pairs alone."""
    tables, latents = vectors.shape[:2]
    values = pairs.values
    if limit is not None:
        values = jnp.where(values >= limit[pairs.latents], values, 0.0)
    targets = _targets(plan, x, reconstruction)
    products = pair_products(vectors, pairs, targets, plan.rows_at_once)
    products = products.reshape(*values.shape, tables * targets.shape[1])
    square = jnp.square(values)
    own = jnp.stack(
        [(values > 0).astype(jnp.float32), values, square, square, square], axis=-1
    )
    each = jnp.concatenate([own, values[..., None] * products], axis=-1)
    place = group[:, None] * latents + pairs.latents
    sums = jnp.zeros((plan.groups * latents, each.shape[-1]), jnp.float32).at[place].add(each)
    return sums.reshape(plan.groups, latents, -1)


def _dense(plan, code, scaled, x, reconstruction, group, vectors, floor):
    """The same from the whole code [N, F] or [N, O, F], and the reconstruction."""
    decoupled = code.ndim == 3
    value = code[:, plan.chat] if decoupled else code
    if floor is not None:
        shown = scaled[:, plan.chat] if decoupled else scaled
        value = jnp.where(shown >= floor[None], value, 0.0)
    own = [code[:, m] if decoupled else code for m in (plan.base, plan.chat)]
    member = jax.nn.one_hot(group, plan.groups, dtype=jnp.float32)
    total = lambda of: jnp.einsum("ng,nf->gf", member, of, precision=EXACT)
    sums = [total(of) for of in ((value > 0).astype(jnp.float32), value, jnp.square(value))]
    sums += [total(value * each) for each in own]
    targets = _targets(plan, x, reconstruction)
    for table in range(vectors.shape[0]):
        for place in range(targets.shape[1]):
            product = jnp.einsum(
                "nd,fd->nf", targets[:, place], vectors[table], precision=EXACT
            )
            sums.append(total(value * product))
    return jnp.stack(sums, axis=-1), reconstruction


def _compensated(high: jax.Array, low: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Knuth's sum of two numbers and its rounding error; high + low is the sum so far."""
    total = high + new
    back = total - high
    low = low + ((high - (total - back)) + (new - back))
    # What has gathered in the low part moves up, or it would be rounded in its turn.
    whole = total + low
    return whole, low - (whole - total)


def _quality(x, reconstruction, code, keep) -> metrics.Sums:
    weight = keep.astype(jnp.float32)
    error = x - reconstruction
    above = code > 0
    fired = jnp.any(above, axis=1) if code.ndim == 3 else above
    rows = jnp.sum(weight)
    outs = 1 if code.ndim == 2 else code.shape[1]
    return metrics.Sums(
        data=_spread(x, weight),
        error=_spread(error, weight),
        error_squares=jnp.sum(jnp.square(error) * weight[:, None, None]),
        active=jnp.sum(fired.astype(jnp.float32), axis=0),
        entries=jnp.sum(above.astype(jnp.float32)),
        codes=rows * outs,
    )


def _spread(values: jax.Array, weight: jax.Array) -> metrics.Spread:
    rows = jnp.sum(weight)
    mean = jnp.einsum("n,nod->od", weight, values, precision=EXACT) / jnp.maximum(rows, 1.0)
    squares = jnp.square(values - mean[None]) * weight[:, None, None]
    return metrics.Spread(rows, mean, jnp.sum(squares, axis=(0, 2)))


def groups_of(documents: np.ndarray, groups: int) -> np.ndarray:
    """int32: documents dealt to groups in turn."""
    return (np.asarray(documents) % groups).astype(np.int32)


def _in_code(floor: jax.Array, scale: jax.Array) -> jax.Array:
    """A bound on the scaled code as one on the code; where s is 0 the scaled code is 0."""
    positive = scale > 0
    bound = floor / jnp.where(positive, scale, 1.0)
    return jnp.where(positive, bound, jnp.where(floor > 0, jnp.inf, 0.0))
