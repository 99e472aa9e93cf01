"""The training loss, as a pure function of dictionary and batch.

It returns what it saw beside the loss; counting that is the caller's step (`counts`). So a call
for logging cannot change what is trained, as it does in the reference (spec of the crosscoder
paper's code: validation there moves the dead-latent counters).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.activations import safe_norm, step
from interp_jax.dictionaries.auxiliary import auxiliary_loss
from interp_jax.dictionaries.counts import Seen, annealed_k
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.selection import pairs_of_batch
from interp_jax.dictionaries.sparse import decode_at, encode_at
from interp_jax.dictionaries.sparse_rows import Lists, both_ways, lists_of_rows
from interp_jax.runtime.errors import UserError

Metrics = dict[str, jax.Array]


class Left(NamedTuple):
    """What the auxiliary loss is about; none of it carries a gradient.

    Attributes:
        rows: float32 [B, M, D], normalised.
        error: float32 [B, O, D], what the reconstruction leaves.
        dead: bool [F].
    """

    rows: jax.Array
    error: jax.Array
    dead: jax.Array


def loss(
    dictionary: Dictionary,
    x: jax.Array,
    step_number: jax.Array,
    recipe: Recipe,
    target: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Metrics, Seen]]:
    """The loss of one batch (crosscoder paper, section 3), computed in normalised space.

    `relu`: reconstruction + mu * mean over rows of sum_j f_j s_j. `topk` and `batch_topk`:
    reconstruction + alpha * auxiliary loss. `jumprelu` (arXiv 2407.14435): reconstruction + mu *
    mean L0. `gated` (arXiv 2404.16014): reconstruction + mu * mean of the scaled gate's L1 +
    mean squared error of the gate's own reconstruction by the frozen decoder. Reconstruction is
    the mean over rows and outputs of the L2 norm of the error, or of its square
    (`recipe.squared`); with `prefixes`, the mean of that over the nested dictionaries.

    Args:
        dictionary: as it is before the step.
        x: [..., M, D], or [..., D] at M = 1.
        step_number: int32 [], from 0; k is annealed by it.
        recipe: coefficients and structure.
        target: [..., O, D] or [..., D] at O = 1; None: x, when inputs and outputs agree.

    Returns:
        loss float32 []; metrics, float32 [] each: `loss`, `reconstruction`, `sparsity`,
        `auxiliary`, `l0`, `dead` (share of latents), `k`; and what was seen.

    Raises:
        UserError: no target for a transcoder, or a sparse path where there is none.
    """
    total, (metrics, seen, left) = main_loss(dictionary, x, step_number, recipe, target)
    if left is not None:
        auxiliary = auxiliary_loss(dictionary, *left, recipe)
        total = total + recipe.auxiliary * auxiliary
        metrics = with_auxiliary(metrics, auxiliary, recipe)
    return total, (metrics, seen)


def with_auxiliary(metrics: Metrics, auxiliary: jax.Array, recipe: Recipe) -> Metrics:
    """The metrics of `main_loss`, with the auxiliary loss in them."""
    auxiliary = jax.lax.stop_gradient(auxiliary)
    return metrics | {
        "loss": metrics["loss"] + recipe.auxiliary * auxiliary, "auxiliary": auxiliary
    }


def main_loss(
    dictionary: Dictionary,
    x: jax.Array,
    step_number: jax.Array,
    recipe: Recipe,
    target: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Metrics, Seen, Left | None]]:
    """`loss` without the auxiliary loss of `topk` and `batch_topk`.

    What that one needs is returned beside what was seen; None for other activations. Arguments
    and errors are those of `loss`.
    """
    c = dictionary.config
    if target is None and (c.inputs, c.width) != (c.outs, c.out_width):
        raise UserError(
            found="no target for a dictionary whose outputs differ from its inputs",
            expected=f"activations [..., {c.outs}, {c.out_width}]",
            do="give the target",
        )
    rows = dictionary.normalise(dictionary.rows(x))
    goal = dictionary.normalise_targets(dictionary.targets(x if target is None else target))
    k = annealed_k(dictionary.array("k"), step_number, recipe)
    select = _sparse if recipe.decode == "sparse" else _dense
    code, seen, parts, extra = select(dictionary, rows, k, recipe)
    base = dictionary.array("decoder_bias")[None]
    if c.skip:
        base = base + dictionary.skipped(rows)
    nested = [base + part for part in parts]
    errors = [goal - out for out in nested]
    reconstruction = sum(_reconstruction(e, recipe) for e in errors) / len(errors)
    total, left, sparsity = reconstruction, None, jnp.zeros((), jnp.float32)
    auxiliary = sparsity
    dead = dictionary.array("silent_tokens") >= recipe.dead_after
    if c.activation in ("topk", "batch_topk"):
        left = jax.lax.stop_gradient(Left(rows, errors[-1], dead))
    else:
        sparsity = _sparsity(dictionary, code, extra["linear"], recipe)
        total = reconstruction + recipe.sparsity * sparsity
        if c.activation == "gated":
            auxiliary = _gate_error(dictionary, extra["linear"], goal, base)
            total = total + auxiliary
    metrics = {
        "loss": total,
        "reconstruction": reconstruction,
        "sparsity": sparsity,
        "auxiliary": auxiliary,
        "l0": extra["l0"],
        "dead": jnp.mean(dead.astype(jnp.float32)),
        "k": k.astype(jnp.float32),
    }
    return total, (jax.tree.map(jax.lax.stop_gradient, metrics), seen, left)


def _reconstruction(error: jax.Array, recipe: Recipe) -> jax.Array:
    """[B, O, D] -> []."""
    if recipe.squared:
        return jnp.mean(jnp.sum(jnp.square(error), axis=-1))
    return jnp.mean(safe_norm(error))


def _dense(dictionary: Dictionary, rows: jax.Array, k: jax.Array, recipe: Recipe):
    """Code [B, F] (or [B, O, F]), what was seen, reconstructions [B, O, D] per prefix, the rest."""
    c = dictionary.config
    read = dictionary.read(rows)
    linear = dictionary.linear(read)
    whole = dictionary.activate(linear, recipe.bandwidth)
    mask = dictionary.keep(whole, "training", k, recipe.most_k)
    code = jnp.where(mask, whole[:, None] if c.decoupled else whole, 0.0)
    parts, below, total = [], 0, jnp.zeros((), jnp.float32)
    for size in c.prefixes or (c.latents,):
        if c.prefixes:
            piece = code[..., below:size]
            spec = "bof,fod->bod" if c.decoupled else "bf,fod->bod"
            total = total + dictionary.product(piece, dictionary.decoder_rows()[below:size], spec)
        else:
            total = dictionary.decode_rows(code)
        parts.append(total)
        below = size
    axes = (0, 2) if c.decoupled else (0, 1)
    scaled = dictionary.scaled(code)
    fired = jnp.any(code > 0, axis=tuple(range(code.ndim - 1)))
    smallest = jnp.min(jnp.where(code > 0, scaled, jnp.inf), axis=axes)
    if c.activation != "batch_topk":  # the only one with a threshold to follow
        smallest = jnp.full_like(smallest, jnp.inf)
    seen = Seen(fired, jax.lax.stop_gradient(smallest), jnp.asarray(rows.shape[0], jnp.int32))
    extra = {
        "linear": linear,
        "l0": jnp.mean(jnp.sum((code > 0).astype(jnp.float32), axis=-1)),
    }
    return code, seen, parts, extra


def _sparse(dictionary: Dictionary, rows: jax.Array, k: jax.Array, recipe: Recipe):
    """As `_dense`, with gradients at the kept latents only; the code is that of the pairs, [N]."""
    c = dictionary.config
    if c.activation not in ("topk", "batch_topk") or c.decoupled or c.matmul_dtype != "float32":
        raise UserError(
            found=f"decode = sparse with {c.activation}, {c.code_norm}, {c.matmul_dtype}",
            expected="topk or batch_topk, one code for all outputs, float32",
            do="take decode = dense",
        )
    read = dictionary.read(rows)
    frozen = jax.lax.stop_gradient
    linear, scale = frozen(dictionary.linear(frozen(read))), frozen(dictionary.scale())
    scaled = frozen(dictionary.activate(linear)) * scale[None]
    most = min(recipe.most_k or c.latents, c.latents)
    k = jnp.minimum(k, most)
    batch, count = rows.shape[0], k * rows.shape[0]
    if c.activation == "topk":
        best, latents = jax.lax.top_k(scaled, most)
        keep = (jax.lax.broadcasted_iota(jnp.int32, latents.shape, 1) < k) & (best > 0)
        lists = lists_of_rows(latents, jnp.sum(keep, axis=1, dtype=jnp.int32))
        there = keep.reshape(-1)
        row = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), most)
        places = row * c.latents + lists.index
    else:
        places, there, counts = pairs_of_batch(scaled, count, most * batch)
        lists = Lists(places % c.latents, jnp.cumsum(counts) - counts, counts)
    # The code itself is made at the pairs: whole, it would be one more array of size [B, F].
    values = jnp.take(linear.reshape(-1), places, mode="clip")
    values = jnp.where(there, frozen(dictionary.activate_at(values, lists.index)), 0.0)
    encoder, bias = dictionary.array("encoder"), dictionary.array("encoder_bias")
    pairs = both_ways(lists, c.latents)
    values = encode_at(read, encoder, bias, values, pairs)
    parts, below, total = [], 0, jnp.zeros((), jnp.float32)
    for size in c.prefixes or (c.latents,):
        inside = (lists.index >= below) & (lists.index < size)
        piece = jnp.where(inside, values, 0.0) if c.prefixes else values
        out = decode_at(piece, pairs, dictionary.array("decoder"))
        total = total + out.reshape(-1, c.outs, c.out_width)
        parts.append(total)
        below = size
    positive = there & (values > 0)
    fired = jnp.zeros(c.latents, bool).at[lists.index].max(positive)
    kept_scaled = jnp.where(positive, values * jnp.take(scale, lists.index), jnp.inf)
    smallest = jnp.min(kept_scaled) if c.activation == "batch_topk" else jnp.float32(jnp.inf)
    seen = Seen(fired, smallest, jnp.asarray(batch, jnp.int32))
    return values, seen, parts, {"l0": jnp.sum(positive.astype(jnp.float32)) / batch}


def _sparsity(dictionary: Dictionary, code, linear, recipe: Recipe) -> jax.Array:
    if dictionary.config.activation == "jumprelu":
        pre = linear + dictionary.array("encoder_bias")[None]
        active = step(pre, dictionary.array("jump_threshold"), recipe.bandwidth)
        return jnp.mean(jnp.sum(active, axis=-1))
    if dictionary.config.activation == "gated":
        code = jax.nn.relu(linear + dictionary.array("encoder_bias")[None])
    return jnp.mean(jnp.sum(dictionary.scaled(code), axis=-1))


def _gate_error(dictionary: Dictionary, linear, goal, base) -> jax.Array:
    gate = jax.nn.relu(linear + dictionary.array("encoder_bias")[None])
    decoder = jax.lax.stop_gradient(dictionary.array("decoder"))
    out = dictionary.product(gate, decoder, "bf,fd->bd").reshape(goal.shape)
    return jnp.mean(jnp.sum(jnp.square(goal - out - jax.lax.stop_gradient(base)), axis=-1))
