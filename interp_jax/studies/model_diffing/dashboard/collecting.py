"""Models run over text, their activations through the dictionary, its codes into examples."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.examples import (
    ExamplePlan,
    Examples,
    collect,
    document_ids,
    finish,
    start,
)
from interp_jax.dictionaries.harvest import Harvest, harvest, keep_mask
from interp_jax.generation.language_model import LanguageModel
from interp_jax.models.batch import Batch
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.progress import Progress
from interp_jax.studies.model_diffing.conversations import Rows, token_rows
from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig
from interp_jax.studies.model_diffing.smoke import little_crosscoder

Models = tuple[LanguageModel, ...]


@partial(jax.jit, static_argnames=("what",))
def _codes(dictionary: Dictionary, networks, batch: Batch, keep: jax.Array, what: Harvest):
    """Scaled codes [B, T, F]; what does not count is taken as zeros, whatever it holds."""
    x = harvest(networks, batch, what).x
    x = jnp.where(keep.reshape(-1, 1, 1), x, 0.0)
    code = dictionary.activations(x[:, 0] if dictionary.config.inputs == 1 else x)
    return jnp.where(keep[..., None], code.reshape(*keep.shape, -1), 0.0)


def _batches(
    config: DashboardConfig, models: Models, what: Harvest, name: str
) -> Iterator[tuple[Rows, np.ndarray]]:
    """Rows and which tokens count, until enough were counted."""
    seen = 0
    with Progress(config.tokens, name, unit="tokens", log_every=config.log_every) as bar:
        for rows in token_rows(
            models[-1], config.data, rows=config.batch_size, length=config.length,
            seed=config.seed,
        ):
            keep = keep_mask(what, rows.tokens, rows.valid, rows.roles)
            yield rows, keep
            seen += int(keep.sum())
            bar.update(int(keep.sum()))
            if seen >= config.tokens:
                break


def find_examples(
    config: DashboardConfig, models: Models, dictionary: Dictionary, what: Harvest
) -> Examples:
    """One pass, or two where the bands are shares of maxima.

    Raises:
        UserError: the data holds no token that counts.
    """
    networks, latents = tuple(lm.network for lm in models), dictionary.config.latents
    code = lambda rows, keep: _codes(
        dictionary, networks, rows.batch(), jnp.asarray(keep), what
    )
    maxima = None
    if config.bands == "quantiles":
        best = jnp.zeros(latents, jnp.float32)
        for rows, keep in _batches(config, models, what, "maxima"):
            best = jnp.maximum(best, jnp.max(code(rows, keep), axis=(0, 1)))
        maxima = np.asarray(best)
    plan = ExamplePlan(
        top=config.top, per_band=config.per_band, before=config.before, after=config.after
    )
    collection = start(latents, keys.root_key(config.seed), plan, maxima)
    for rows, keep in _batches(config, models, what, "examples"):
        numbers = document_ids(rows.tokens, rows.valid)
        collection = collect(collection, code(rows, keep), rows.tokens, numbers, keep)
    found = finish(collection)
    if not found.tokens:
        raise UserError(
            found=f"no token that counts in {config.data}", expected="some",
            do="give other data, or a lower --skip_first",
        )
    return found


def smoke_dictionary(config: DashboardConfig, models: Models, what: Harvest) -> Dictionary:
    """A crosscoder of two models, trained for a few steps on the same text.

    Raises:
        UserError: one model.
    """
    if len(models) != 2:
        raise UserError(
            found="no dictionary and one model", expected="a dictionary", do="give --dictionary"
        )
    networks = tuple(lm.network for lm in models)
    rows_of = jax.jit(lambda networks, batch: harvest(networks, batch, what).x)
    kept = [
        rows_of(networks, rows.batch())[jnp.asarray(keep.reshape(-1))]
        for rows, keep in _batches(config, models, what, "activations to train on")
    ]
    return little_crosscoder(kept, models[0].network.config.width, config.seed)
