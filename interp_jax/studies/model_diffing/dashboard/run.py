"""From a dictionary, its models and data to the page.

    from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig
    from interp_jax.studies.model_diffing.dashboard.run import run

    print(run(DashboardConfig(dictionary="runs/dictionary", workdir="runs/dashboard")).page)

The workdir holds index.html, data/, examples.npz and provenance.json. The same config run again
there finds the examples made and makes the page anew.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.examples import Examples
from interp_jax.dictionaries.examples_file import load_examples, save_examples
from interp_jax.dictionaries.formats.native import provenance_of
from interp_jax.dictionaries.formats.opening import read_dictionary
from interp_jax.dictionaries.harvest import Harvest, harvest
from interp_jax.dictionaries.replaced_tokens import require_replaceable
from interp_jax.generation.language_model import load
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.provenance import Provenance, hash_arrays
from interp_jax.runtime.workdir import Workdir, to_json
from interp_jax.studies.model_diffing.dashboard.collecting import (
    Models,
    find_examples,
    smoke_dictionary,
)
from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig
from interp_jax.studies.model_diffing.dashboard.directions import LogitEffects, logit_effects
from interp_jax.studies.model_diffing.dashboard.site import build_dashboard
from interp_jax.studies.model_diffing.smoke import shaken
from interp_jax.studies.model_diffing.work import say_if_trained_otherwise

EXAMPLES, PROVENANCE, LATENTS = "examples.npz", "provenance.json", "latents.csv"
STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites that are written to the stream, so that the head can be asked about them."""


@dataclass(frozen=True)
class Made:
    """What a run made.

    Attributes:
        page: its `index.html`.
        examples: what the page shows.
    """

    page: Path
    examples: Examples


def run(
    config: DashboardConfig,
    models: Models | None = None,
    dictionary: Dictionary | None = None,
) -> Made:
    """Makes the dashboard, or its page anew.

    Args:
        config: what to do.
        models, dictionary: what the config names, if it is loaded already.

    Raises:
        UserError: bad input, a workdir of another config, or models, site and dictionary that do
            not belong together.
    """
    config = config.resolved()
    if dictionary is None and not config.dictionary and not config.smoke:
        raise UserError(
            found="no dictionary", expected="--dictionary", do="say where it is, or try --smoke"
        )
    models = models or _models(config)
    loaded = None
    if dictionary is None and config.dictionary:
        loaded = read_dictionary(config.dictionary, config.layout, config.scales)
        dictionary = loaded.dictionary
        say_if_trained_otherwise(loaded, config.replacements())
    site, written = _sites(
        config, provenance_of(loaded) if loaded else {}, models[0].network
    )
    what = Harvest(
        (site,), skip_first=config.skip_first, replace_tokens=config.replacements()
    )
    if dictionary is None:
        dictionary = smoke_dictionary(config, models, what)
    _require_fit(dictionary, models, what)
    workdir = Workdir(config.workdir, config)
    made = _provenance(config, workdir, models, dictionary, site)
    examples = _examples(config, workdir, models, dictionary, what, made)
    names = _output_names(dictionary, models, what)
    effects = _effects(config, models[-1].network, dictionary, written)
    title = config.title or Path(config.dictionary or "smoke run").name
    page = workdir / "index.html"
    if is_writer():
        page = build_dashboard(
            workdir.path, dictionary, examples, models[-1].tokenizer, title=title,
            facts={
                "models" if len(models) > 1 else "model": ", ".join(
                    Path(lm.origin.model).name for lm in models
                ),
                "site": str(site) if written == site else f"{site} to {written}",
                "tokens": f"{examples.tokens:,} of {Path(config.data).name}",
            },
            outputs=names, ratios=_ratios(config, dictionary), effects=effects,
            effects_of=names[-1] if len(names) > 1 else "", neighbours=config.neighbours,
            provenance=made,
        )
    return Made(page, examples)


def _models(config: DashboardConfig) -> Models:
    first = load(config.model, dtype=config.dtype, revision=config.revision)
    if config.other_model is not None:
        other = load(config.other_model, dtype=config.dtype, revision=config.other_revision)
        return first, other
    if config.dictionary:
        return (first,)
    noisy = shaken(first, config.seed)
    origin = dataclasses.replace(first.origin, model=f"{first.origin.model} with noise")
    return first, dataclasses.replace(noisy, origin=origin)


def _sites(
    config: DashboardConfig, provenance: dict[str, Any], network: Decoder
) -> tuple[Site, Site]:
    """What the dictionary reads, and what it writes: another site, of a transcoder."""
    told = provenance.get("site")
    if config.site:
        read = Site.parse(config.site)
        return read, read
    if told:
        # A site's own layers have no space between them.
        read, *target = (Site.parse(text) for text in told.split(", "))
        return read, target[0] if target else read
    read = Site("resid_post", network.config.n_layers // 2)
    return read, read


def _output_names(d: Dictionary, models: Models, what: Harvest) -> list[str]:
    """Of the dictionary's outputs: models, layers, or both, as far as they differ."""
    layers = [f"layer {n}" for n in what.sites[0].layers or ()]
    layers = layers if len(layers) > 1 else [""]
    whose = ["base", "chat"] if len(models) == 2 else [""]
    names = [" ".join(filter(None, pair)) for pair in itertools.product(whose, layers)]
    return names if len(names) == d.config.outs and all(names) else []


def _require_fit(d: Dictionary, models: Models, what: Harvest) -> None:
    shape = (1, 1)
    batch = jax.eval_shape(lambda: Batch.make(jnp.zeros(shape, jnp.int32)))
    networks = tuple(lm.network for lm in models)
    rows = jax.eval_shape(lambda n, b: harvest(n, b, what), networks, batch).x
    c = d.config
    if rows.shape[1:] != (c.inputs, c.width):
        raise UserError(
            found=f"a dictionary of {c.inputs} inputs of width {c.width}, and {rows.shape[1]} "
            f"activations of width {rows.shape[2]} at {what.sites[0]} of {len(models)} models",
            expected="one activation for each input",
            do="give the models and the site that the dictionary was trained on",
        )
    vocabulary = min(lm.network.config.vocab_size for lm in models)
    if models[-1].tokenizer.vocab_size > vocabulary:
        raise UserError(
            found=f"a tokenizer of {models[-1].tokenizer.vocab_size} ids",
            expected=f"at most {vocabulary}, as every model has",
            do="give two models of one tokenizer",
        )
    require_replaceable(what.replace_tokens, vocabulary)


def _examples(
    config: DashboardConfig, workdir: Workdir, models: Models, dictionary: Dictionary,
    what: Harvest, made: dict[str, Any],
) -> Examples:
    if (workdir / EXAMPLES).exists():
        _require_same(workdir, made)
        return load_examples(workdir / EXAMPLES)
    found = find_examples(config, models, dictionary, what)
    if is_writer():
        # What they are of is there before they are.
        workdir.write_json(PROVENANCE, made)
        save_examples(workdir / EXAMPLES, found)
    return found


def _require_same(workdir: Workdir, made: dict[str, Any]) -> None:
    """The examples that are there are of these models and this dictionary."""
    path = workdir / PROVENANCE
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = ("models", "dictionary", "site")
    if any(there.get(name) != made[name] for name in names):
        raise UserError(
            found=f"{EXAMPLES} in {workdir.path} of other weights",
            expected="of these models and this dictionary",
            do=f"remove {EXAMPLES}, or choose another workdir",
        )


def _effects(
    config: DashboardConfig, network: Decoder, d: Dictionary, written: Site
) -> LogitEffects | None:
    """Of the last output (the second model's, where there are two)."""
    if not config.effects or written.name not in STREAM:
        return None
    if d.config.out_width != network.config.width:
        return None
    return logit_effects(network, d.written_rows(d.config.outs - 1), config.effects)


def _ratios(config: DashboardConfig, d: Dictionary) -> dict[str, np.ndarray]:
    """The ratios of latent scaling from the table of a model-diffing run."""
    if config.diff_run is None:
        return {}
    path = Path(config.diff_run) / LATENTS
    if not path.is_file():
        raise UserError(
            found=f"no {LATENTS} in {config.diff_run}", expected="a finished run of the study",
            do="run scripts/diff_models.py first, with stage report or all",
        )
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in ("nu_eps", "nu_r", "nu_act") if rows and name in rows[0]]
    if len(rows) != d.config.latents or not names:
        raise UserError(
            found=f"{len(rows)} latents with {', '.join(names) or 'no ratios'} in {path}",
            expected=f"{d.config.latents} with nu_eps and nu_r",
            do="give the run of this dictionary",
        )
    read = lambda text: float(text) if text else np.nan
    return {name: np.asarray([read(row[name]) for row in rows]) for name in names}


def _provenance(
    config: DashboardConfig, workdir: Workdir, models: Models, dictionary: Dictionary, site: Site
) -> dict[str, Any]:
    last = models[-1].origin
    made = Provenance(
        model=last.model_id, weights=last.weights, tokenizer=last.tokenizer, dtype=last.dtype,
        seed=config.seed, site=str(site), data=config.data, config=workdir.config,
    )
    return {
        **made.to_json(),
        "models": [
            {"model": lm.origin.model_id, "weights": lm.origin.weights}
            for lm in models
        ],
        "replace_tokens": config.replacements(),
        "dictionary": {
            "path": config.dictionary or "trained for a smoke run",
            "arrays": hash_arrays(dictionary.arrays()),
            "config": to_json(dictionary.config),
        },
    }
