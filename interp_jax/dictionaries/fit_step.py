"""One compiled training step for all dictionaries of a sweep, its state donated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from interp_jax.dictionaries.config import DictionaryConfig
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.losses import Metrics
from interp_jax.dictionaries.placement import row_sharding, state_shardings
from interp_jax.dictionaries.recipe import Recipe
from interp_jax.dictionaries.resampling import resample
from interp_jax.dictionaries.ring import Rows
from interp_jax.dictionaries.training import TrainState, paper_optimiser, train_step, warmed_up
from interp_jax.dictionaries.variants import Variant
from interp_jax.runtime import keys


@partial(jax.tree_util.register_dataclass, data_fields=["train"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Fitting:
    """What training changes. A pytree.

    Attributes:
        train: of S dictionaries, every leaf with a first axis S.
    """

    train: TrainState


def flat_rows(rows: Rows) -> tuple[jax.Array, jax.Array | None]:
    """x and target as dictionaries take them: without axis M (or O) where it is 1."""
    flat = lambda a: a[:, 0] if a.shape[1] == 1 else a
    return flat(rows["x"]), flat(rows["target"]) if "target" in rows else None


@dataclasses.dataclass(frozen=True)
class Structure:
    """What the programs of a run depend on. Runs that are equal in it share them.

    Attributes:
        dictionary: what is trained.
        mesh: devices; None: the default device.
        clip: of the gradient's global norm, or None.
        warm_up, decay, end: of the learning rate; `end` is 0 without decay.
        resample_every: steps between resamplings; 0: never.
        start_norm, tied, transposed, unit_norm, median_bias: of the first state.
    """

    dictionary: DictionaryConfig
    mesh: Mesh | None
    clip: float | None
    warm_up: int
    decay: int
    end: int
    resample_every: int
    start_norm: float
    tied: bool
    transposed: bool
    unit_norm: bool
    median_bias: bool

    def optimiser(self, rate: jax.Array | float) -> optax.GradientTransformation:
        """Adam at a rate that may be traced; the form of its state does not depend on it."""
        schedule = warmed_up(
            1.0,
            self.warm_up,
            decay_from=self.end - self.decay if self.decay else None,
            end=self.end,
            restart=self.resample_every or None,
        )
        return paper_optimiser(lambda step: rate * schedule(step), self.clip)


class Operands(NamedTuple):
    """What differs between the dictionaries of a sweep; a first axis S everywhere.

    Attributes:
        rates: float32 [S], full learning rates.
        recipes: coefficients [S].
        keys: typed keys [S], of initialisation and resampling.
        k: int32 [S].
    """

    rates: jax.Array
    recipes: Recipe
    keys: jax.Array
    k: jax.Array


class StepFunction:
    """One step of a run: every dictionary sees the same rows; metrics are float32 [S].

    One dictionary is trained as it is, several under `vmap`: there the auxiliary loss costs its
    work for all while any of them has dead latents. On the sparse path they take their steps in
    turn: it is made of choices and loops.

    Attributes:
        structure: what the compiled program depends on.
        operands: of the variants.
    """

    def __init__(
        self,
        config: FitConfig,
        dictionary: DictionaryConfig,
        variants: Sequence[Variant],
        mesh: Mesh | None = None,
    ):
        c, recipe = config, config.recipe(dictionary, 1 if mesh is None else mesh.size)
        self.structure = Structure(
            dictionary=dictionary,
            mesh=mesh,
            clip=c.clip_norm,
            warm_up=c.warm_up,
            decay=c.decay,
            end=c.steps if c.decay else 0,
            resample_every=c.resample_every,
            start_norm=c.start_norm,
            tied=c.tied,
            transposed=c.transposed,
            unit_norm=c.unit_norm,
            median_bias=c.median_bias,
        )
        self.operands = _operands(config, dictionary, variants, recipe)

    def __call__(self, state: Fitting, rows: Rows) -> tuple[Fitting, Metrics]:
        """One step. `state` is donated: use what comes back."""
        return dictionary_step(state, rows, self.operands, self.structure)


@partial(jax.jit, donate_argnums=0, static_argnums=3)
def dictionary_step(
    state: Fitting,
    rows: Rows,
    operands: Operands,
    structure: Structure,
) -> tuple[Fitting, Metrics]:
    """The program of `StepFunction`."""
    mesh = structure.mesh
    if mesh is not None:
        put = lambda a: jax.lax.with_sharding_constraint(a, row_sharding(a.shape, mesh))
        rows = jax.tree.map(put, rows)
    x, target = flat_rows(rows)
    each = lambda state, operands: _one(structure, state, x, target, operands)
    if operands.k.shape[0] > 1:
        in_turn = operands.recipes.decode == "sparse"
        several = partial(jax.lax.map, lambda of: each(*of)) if in_turn else (
            lambda of: jax.vmap(each)(*of)
        )
        train, metrics = several((state.train, operands))
    else:
        cut = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
        found = each(cut(state.train), cut(operands))
        train, metrics = jax.tree.map(lambda leaf: leaf[None], found)
    after = Fitting(train)
    if mesh is not None:
        places = state_shardings(after, structure.dictionary, mesh)
        after = jax.lax.with_sharding_constraint(after, places)
    return after, metrics


def _one(structure: Structure, state: TrainState, x, target, operands: Operands):
    """A step of one dictionary, and resampling where it is due."""
    rate, recipe, key, _ = operands
    optimiser, before, every = structure.optimiser(rate), state.step, structure.resample_every
    state, metrics = train_step(state, x, recipe, optimiser, target)
    if not every:
        return state, metrics

    def renew(state: TrainState):
        own = keys.fold(key, "resample", before)
        return resample(state, x, own, recipe, optimiser, encoder_share=0.05, by="error")

    due = (before > 0) & (before % every == 0)
    state, count = jax.lax.cond(due, renew, lambda s: (s, jnp.zeros((), jnp.int32)), state)
    return state, metrics | {"resampled": count.astype(jnp.float32)}


def _operands(
    config: FitConfig, dictionary: DictionaryConfig, variants: Sequence[Variant], recipe: Recipe
) -> Operands:
    if config.resample_every:
        # Latents silent for half an interval are resampled (section 3.1).
        recipe = dataclasses.replace(
            recipe, dead_after=config.resample_every // 2 * config.batch_size
        )
    rates = jnp.asarray([config.rate(v, dictionary.latents) for v in variants], jnp.float32)
    each = [
        dataclasses.replace(recipe, sparsity=v.sparsity, auxiliary=v.auxiliary) for v in variants
    ]
    seeds = jnp.stack([keys.root_key(variant.seed) for variant in variants])
    counted = ("dead_after", "threshold_start", "k_start", "k_steps")
    fields: dict[str, Any] = {
        field: jnp.asarray(
            [getattr(r, field) for r in each], jnp.int32 if field in counted else jnp.float32
        )
        for field in ("sparsity", "auxiliary", "threshold_decay", *counted)
    }
    k = jnp.asarray([variant.k for variant in variants], jnp.int32)
    return Operands(rates, dataclasses.replace(recipe, **fields), seeds, k)
