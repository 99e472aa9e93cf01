"""The state before the first step: fresh dictionaries, their statistics and first bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.build import build, normaliser, start_bias
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.fit_config import SAMPLED
from interp_jax.dictionaries.fit_step import (
    Fitting,
    Operands,
    StepFunction,
    Structure,
    flat_rows,
)
from interp_jax.dictionaries.moments import Moments
from interp_jax.dictionaries.placement import state_shardings
from interp_jax.dictionaries.ring import Rows
from interp_jax.dictionaries.training import start
from interp_jax.dictionaries.unit_norm import with_unit_rows
from interp_jax.runtime import keys


def first_state(
    batch: Rows, first_rows: Iterable[Rows], step: StepFunction, rms: float | None = 1.0
) -> Fitting:
    """Fresh dictionaries, one for each variant of the step.

    Args:
        batch: the first batch, whose geometric median the decoder's bias starts at.
        first_rows: the rows that a normaliser is made from, in blocks; none without one.
        step: of the run.
        rms: what a normaliser brings inputs to; None: each coordinate to variance 1.
    """
    return _fresh(batch, _statistics(first_rows, step, rms), step.operands, step.structure)


def shape_of_state(shapes: Mapping[str, jax.ShapeDtypeStruct], step: StepFunction) -> Fitting:
    """What `first_state` gives, as shapes that say where each leaf lies.

    Args:
        shapes: name -> one row of the source.
        step: of the run.
    """
    dictionary, mesh = step.structure.dictionary, step.structure.mesh
    rows = {
        name: jax.ShapeDtypeStruct((1, *one.shape), one.dtype)
        for name, one in shapes.items()
    }
    statistics = {}
    if dictionary.normaliser:
        of_inputs = jax.ShapeDtypeStruct((dictionary.inputs, dictionary.width), jnp.float32)
        of_outputs = jax.ShapeDtypeStruct((dictionary.outs, dictionary.out_width), jnp.float32)
        statistics = dict(
            shift_in=of_inputs, scale_in=of_inputs, shift_out=of_outputs, scale_out=of_outputs
        )
    shape = jax.eval_shape(
        lambda r, s, o: _fresh(r, s, o, step.structure), rows, statistics, step.operands
    )
    if mesh is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda _: here, shape)
    else:
        places = state_shardings(shape, dictionary, mesh)
    put = lambda one, at: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=at)
    return jax.tree.map(put, shape, places)


@partial(jax.jit, static_argnames=("structure",))
def _fresh(
    batch: Rows, statistics: dict[str, jax.Array], operands: Operands, structure: Structure
) -> Fitting:
    x, target = flat_rows(batch)
    config = structure.dictionary

    def one(key: jax.Array, k: jax.Array):
        dictionary = build(
            config,
            keys.fold(key, "dictionary"),
            init_norm=structure.start_norm,
            tied=structure.tied,
            transposed=structure.transposed,
            statistics=statistics,
        )
        if config.activation in SAMPLED:
            dictionary = Dictionary(config, dictionary.arrays() | {"k": k})
        if structure.unit_norm:
            dictionary = with_unit_rows(dictionary)
        if structure.median_bias:
            dictionary = start_bias(dictionary, x if target is None else target)
        return start(dictionary, structure.optimiser(1.0))

    train = jax.vmap(one)(operands.keys, operands.k)
    state = Fitting(train)
    if structure.mesh is None:
        return state
    places = state_shardings(state, config, structure.mesh)
    return jax.lax.with_sharding_constraint(state, places)


def _statistics(
    first_rows: Iterable[Rows], step: StepFunction, rms: float | None
) -> dict[str, jax.Array]:
    """Shifts and scales from the first rows (section 2.2)."""
    if not step.structure.dictionary.normaliser:
        return {}
    moments: dict[str, Moments] = {}
    for block in first_rows:
        for name, rows in block.items():
            moments.setdefault(name, Moments.empty(rows.shape[1:]))
            moments[name].add(np.asarray(rows.astype(jnp.float32)))
    found: dict[str, jax.Array] = {}
    for name, side in (("x", "in"), ("target" if "target" in moments else "x", "out")):
        mean, std = (
            jnp.asarray(part, jnp.float32) for part in (moments[name].mean, moments[name].std())
        )
        found |= normaliser(mean, std, rms, side)
    return found
