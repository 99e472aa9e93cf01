"""What a dictionary is worth, each measure by name and version.

Sums are accumulated over batches and divided once: splitting a batch changes nothing, up to
rounding. The definitions, with x the activation, e = x - reconstruction, over all rows seen:

`fve` (1): fraction of variance explained, 1 - sum_i var(e_i) / sum_i var(x_i), variances over
rows per coordinate; pooled over outputs, and `fve_per_output`. An offset in e costs nothing.
`nmse` (1): sum |e|^2 / sum |x - mean(x)|^2. Predicting the mean scores 1; an offset counts.
`l0` (1): mean number of latents above zero per row (when decoupled, per row and output).
`dead_share` (1): share of latents never above zero in what was seen.
`density` (1): per latent, share of rows where it is above zero.
`explained_variance_per_row` (1): another measure of other authors, see the function.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.dictionaries.dictionary import Dictionary, Select

VERSIONS = {
    "fve": 1,
    "fve_per_output": 1,
    "nmse": 1,
    "l0": 1,
    "dead_share": 1,
    "density": 1,
    "explained_variance_per_row": 1,
}


class Spread(NamedTuple):
    """Mean and summed squared deviation of rows, mergeable (Chan, Golub, LeVeque 1979).

    Attributes:
        rows: float32 [].
        mean: float32 [O, D].
        squares: float32 [O], deviations from the mean, squared and summed over rows and width.
    """

    rows: jax.Array
    mean: jax.Array
    squares: jax.Array


def spread(values: jax.Array) -> Spread:
    """Of float32 [B, O, D]."""
    mean = jnp.mean(values, axis=0)
    squares = jnp.sum(jnp.square(values - mean[None]), axis=(0, 2))
    return Spread(jnp.asarray(values.shape[0], jnp.float32), mean, squares)


def merge_spreads(a: Spread, b: Spread) -> Spread:
    """Of the rows of both."""
    rows = a.rows + b.rows
    share = b.rows / jnp.maximum(rows, 1.0)
    gap = b.mean - a.mean
    squares = a.squares + b.squares + jnp.sum(jnp.square(gap), axis=-1) * a.rows * share
    return Spread(rows, a.mean + gap * share, squares)


class Sums(NamedTuple):
    """What evaluation accumulates; merge with `merge`, read with `summary`.

    Attributes:
        data: of x.
        error: of x - reconstruction.
        error_squares: float32 [], sum of |e|^2.
        active: float32 [F], rows in which each latent is above zero (in any output).
        entries: float32 [], entries of the code above zero.
        codes: float32 [], codes seen: rows, times outputs when decoupled.
    """

    data: Spread
    error: Spread
    error_squares: jax.Array
    active: jax.Array
    entries: jax.Array
    codes: jax.Array


def sums_of(target: jax.Array, reconstruction: jax.Array, code: jax.Array) -> Sums:
    """Sums of one batch.

    Args:
        target: float32 [B, O, D].
        reconstruction: float32 [B, O, D].
        code: [B, F], or [B, O, F] when decoupled.
    """
    error = target - reconstruction
    above = code > 0
    fired = jnp.any(above, axis=1) if code.ndim == 3 else above
    return Sums(
        data=spread(target),
        error=spread(error),
        error_squares=jnp.sum(jnp.square(error)),
        active=jnp.sum(fired.astype(jnp.float32), axis=0),
        entries=jnp.sum(above.astype(jnp.float32)),
        codes=jnp.asarray(code.size // code.shape[-1], jnp.float32),
    )


def evaluate(
    dictionary: Dictionary,
    x: jax.Array,
    target: jax.Array | None = None,
    select: Select = "inference",
) -> Sums:
    """Sums of one batch, in the space of the activations (not the normalised one).

    Args:
        dictionary: left as it is; evaluating counts nothing.
        x: [..., M, D], or [..., D] at M = 1.
        target: as in `losses.loss`; None: x.
        select: `inference` by threshold, `training` by BatchTopK over this batch.
    """
    rows = dictionary.rows(x)
    flat = rows[:, 0] if dictionary.config.inputs == 1 else rows
    code = dictionary.encode(flat, select)
    goal = dictionary.targets(x if target is None else target)
    return sums_of(goal, dictionary.decode(code, flat).reshape(goal.shape), code)


def merge(a: Sums, b: Sums) -> Sums:
    """Sums of the rows of both."""
    return Sums(
        merge_spreads(a.data, b.data),
        merge_spreads(a.error, b.error),
        *(x + y for x, y in zip(a[2:], b[2:], strict=True)),
    )


def summary(sums: Sums) -> dict[str, jax.Array]:
    """The measures by name: float32 [], but `fve_per_output` [O] and `density` [F].

    Where the data does not vary, `fve` and `nmse` are NaN: there is nothing to explain.
    """
    total = jnp.sum(sums.data.squares)
    return {
        "fve": 1 - jnp.sum(sums.error.squares) / total,
        "fve_per_output": 1 - sums.error.squares / sums.data.squares,
        "nmse": sums.error_squares / total,
        "l0": sums.entries / sums.codes,
        "dead_share": jnp.mean((sums.active == 0).astype(jnp.float32)),
        "density": sums.active / sums.data.rows,
    }


def explained_variance_per_row(
    target: jax.Array, reconstruction: jax.Array, mean: jax.Array | None = None
) -> jax.Array:
    """Mean over rows of 1 - |e|^2 / |x - mean|^2, as Kissane et al. and Nanda report it.

    Not comparable with `fve`: a mean of ratios, which rows near the mean dominate, and which
    depends on the batch unless `mean` is given.

    Args:
        target: float32 [B, O, D].
        reconstruction: float32 [B, O, D].
        mean: float32 [O, D]; None: of the batch.

    Returns:
        float32 [O].
    """
    mean = jnp.mean(target, axis=0) if mean is None else mean
    error = jnp.sum(jnp.square(target - reconstruction), axis=-1)
    return jnp.mean(1 - error / jnp.sum(jnp.square(target - mean[None]), axis=-1), axis=0)


def silent_share(dictionary: Dictionary, dead_after: int = 10_000_000) -> jax.Array:
    """Share of latents not kept in training for `dead_after` tokens or more, float32 []."""
    silent = dictionary.array("silent_tokens") >= dead_after
    return jnp.mean(silent.astype(jnp.float32))
