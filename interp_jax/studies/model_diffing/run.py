"""The study from end to end: latent scaling, examples, causality, explanations, report.

    from interp_jax.studies.model_diffing.config import ModelDiffingConfig
    from interp_jax.studies.model_diffing.run import run

    result = run(ModelDiffingConfig(
        workdir="runs/diff", model="base", other_model="chat", dictionary="crosscoder",
    ))
    print(result.report)

    stage       makes                           from
    scaling     scaling.npz                     the models, the crosscoder, data
    examples    examples.npz, templates.npz     scaling.npz, held-out data
    causality   causality.jsonl                 scaling.npz, held-out conversations
    autointerp  autointerp.json, judge.jsonl,   scaling.npz, examples.npz
                similar.npz (--negatives=similar)   and held-out data for the last
    report      report.html, latents.csv        scaling.npz, and whatever else is there

The same config run again in a workdir goes on: what is finished is read, latent scaling goes on at
its checkpoint and causality at its last batch; the pass for examples begins again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.formats.opening import read_dictionary
from interp_jax.dictionaries.replaced_tokens import require_replaceable
from interp_jax.generation.language_model import LanguageModel, load
from interp_jax.runtime.compilation import CompileCounter, enable_compilation_cache
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.metrics import open_writers
from interp_jax.runtime.process import is_writer
from interp_jax.runtime.provenance import Provenance, hash_arrays, library_versions
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.model_diffing.causality import Causality
from interp_jax.studies.model_diffing.conditions import Sets
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.studies.model_diffing.conversations import token_rows
from interp_jax.studies.model_diffing.examples_stage import Found, examples_stage
from interp_jax.studies.model_diffing.explain_stage import autointerp_stage, causality_stage
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling
from interp_jax.studies.model_diffing.latent_table import latent_table
from interp_jax.studies.model_diffing.moments import require_pair
from interp_jax.studies.model_diffing.presenting import Findings, report_parts, scalars
from interp_jax.studies.model_diffing.report import write_report
from interp_jax.studies.model_diffing.scaling_stage import scaling_stage
from interp_jax.studies.model_diffing.smoke import little_crosscoder, shaken
from interp_jax.studies.model_diffing.work import (
    EXAMPLES,
    LATENTS,
    REPORT,
    Work,
    activations,
    data_of,
    in_order,
    reading,
    say_if_trained_otherwise,
)


@dataclass(frozen=True)
class Result:
    """What a run found, and where it is.

    Attributes:
        workdir: path. report: path; None where the stage that was run makes none.
        findings: all results that are there.
    """

    workdir: Path
    report: Path | None
    findings: Findings

    @property
    def scaling(self) -> LatentScaling:
        """Latent Scaling of every latent."""
        return self.findings.scaling


def run(
    config: ModelDiffingConfig,
    base: LanguageModel | None = None,
    chat: LanguageModel | None = None,
    dictionary: Dictionary | None = None,
) -> Result:
    """Runs the study or the one stage that `config.stage` names, or goes on with it.

    Args:
        config: what to do.
        base, chat, dictionary: what the config names, if it is loaded already.

    Raises:
        UserError: bad input, a workdir of another config, models and crosscoder that do not
            belong together, or a stage whose inputs are not there.
    """
    config, began = config.resolved(), time.monotonic()
    base = base or load(config.model, dtype=config.dtype, revision=config.revision)
    chat = chat or _other(config, base)
    layer = base.network.config.n_layers // 2 if config.layer is None else config.layer
    _require_alike(base, chat, layer)
    require_replaceable(config.replacements(), base.network.config.vocab_size)
    dictionary = dictionary or _dictionary(config, base, chat, layer)
    require_pair(dictionary, config.base_output, config.chat_output)
    _require_width(dictionary, base)
    workdir = Workdir(config.workdir, config)
    if config.compilation_cache_dir is not None:
        enable_compilation_cache(config.compilation_cache_dir)
    provenance = _provenance(config, workdir, base, chat, dictionary, layer)
    workdir.write_json("provenance.json", provenance)
    report = None
    with (
        CompileCounter() as counter,
        open_writers(workdir.path, tensorboard=config.tensorboard) as writer,
    ):
        work = Work(config, workdir, base, chat, dictionary, layer, writer)
        found = find(work)
        writer.scalars(found.scaling.tokens, scalars(found))
        if config.stage in ("all", "report"):
            report = workdir / REPORT
            facts = {
                "seconds": time.monotonic() - began, "compilations": counter.count,
                "versions": library_versions(), **provenance,
            }
            workdir.write_text(LATENTS, latent_table(work.dictionary, work.delta, found))
            if is_writer():
                write_report(report, report_parts(found, facts, config))
    return Result(workdir.path, report, found)


def find(work: Work) -> Findings:
    """Makes what the stage is to make and reads the rest of what is there."""
    stage = work.config.stage
    make = lambda name: stage in ("all", name)
    scaling = scaling_stage(work, make=make("scaling"))
    examples: Found | None = None
    causality: tuple[Causality, Sets] | None = None
    explained: dict[str, Any] | None = None
    if stage != "scaling":
        examples = examples_stage(work, scaling, make=make("examples"))
        if stage == "autointerp" and examples is None:
            raise work.missing(EXAMPLES, "examples")
        causality = causality_stage(work, scaling, make=make("causality"))
        explained = autointerp_stage(work, scaling, examples, make=make("autointerp"))
    return Findings(
        delta=work.delta, scaling=scaling, examples=examples,
        causality=None if causality is None else causality[0],
        sets=None if causality is None else causality[1], explained=explained,
    )


def _other(config: ModelDiffingConfig, base: LanguageModel) -> LanguageModel:
    if config.smoke and config.other_model == config.model:
        return shaken(base, config.seed)
    return load(config.other_model, dtype=config.dtype, revision=config.other_revision)


def _dictionary(
    config: ModelDiffingConfig, base: LanguageModel, chat: LanguageModel, layer: int
) -> Dictionary:
    if config.dictionary:
        loaded = read_dictionary(config.dictionary, scales=config.scales)
        say_if_trained_otherwise(loaded, config.replacements())
        return loaded.dictionary
    data, seed = data_of(config, held_out=False)
    rows = token_rows(chat, data, rows=config.batch_size, length=config.length, seed=seed)
    kept, seen = [], 0
    for one in rows:
        x = activations(in_order(config, base, chat), one.batch(), reading(layer, config))
        kept.append(x[jnp.asarray(one.valid.reshape(-1))])
        seen += len(kept[-1])
        if seen >= config.tokens:
            break
    return little_crosscoder(kept, base.network.config.width, config.seed)


def _require_alike(base: LanguageModel, chat: LanguageModel, layer: int) -> None:
    one, other = base.network.config, chat.network.config
    if (one.width, one.vocab_size) != (other.width, other.vocab_size) or not (
        0 <= layer < min(one.n_layers, other.n_layers)
    ):
        raise UserError(
            found=f"models of width {one.width} and {other.width}, vocabulary {one.vocab_size} "
            f"and {other.vocab_size}, and layer {layer}",
            expected="the same width and vocabulary, and a layer that both have",
            do="compare a model with one that was made from it",
        )


def _require_width(dictionary: Dictionary, base: LanguageModel) -> None:
    c, width = dictionary.config, base.network.config.width
    if (c.inputs, c.width) != (2, width):
        raise UserError(
            found=f"a dictionary of {c.inputs} inputs of width {c.width}",
            expected=f"two inputs of the models' width, {width}",
            do="give the crosscoder of these two models",
        )


def _provenance(
    config: ModelDiffingConfig, workdir: Workdir, base: LanguageModel, chat: LanguageModel,
    dictionary: Dictionary, layer: int,
) -> dict[str, Any]:
    """Of both models and the crosscoder."""
    made = Provenance(
        model=chat.origin.model_id, weights=chat.origin.weights, tokenizer=chat.origin.tokenizer,
        dtype=chat.origin.dtype, seed=config.seed, site=f"resid_post[{layer}]",
        data=data_of(config, held_out=False)[0], config=workdir.config,
    )
    shaken = config.smoke and config.other_model == config.model
    return {
        **made.to_json(),
        "other": "the base model with noise in its first block" if shaken else None,
        "base": {"model": base.origin.model_id, "weights": base.origin.weights,
                 "replace_tokens": config.replacements()},
        "dictionary": {"path": config.dictionary or "trained for a smoke run",
                       "arrays": hash_arrays(dictionary.arrays())},
    }  # fmt: skip


def summary_of(result: Result, config: ModelDiffingConfig) -> dict[str, Any]:
    """What the report shows of a run, for the terminal."""
    return report_parts(result.findings, {}, config)
