"""Causality and explanations as stages."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax
import numpy as np

from interp_jax.generation.language_model import load
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.progress import Progress
from interp_jax.studies.model_diffing.autointerp import explain_and_score
from interp_jax.studies.model_diffing.causality import Causality, measure_causality
from interp_jax.studies.model_diffing.conditions import Sets, choose_sets, paper_conditions
from interp_jax.studies.model_diffing.dashboard.words import token_texts
from interp_jax.studies.model_diffing.examples_stage import Found
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling
from interp_jax.studies.model_diffing.patched_forward import PatchPlan
from interp_jax.studies.model_diffing.scoring_texts import gather
from interp_jax.studies.model_diffing.similar_texts import similar_texts
from interp_jax.studies.model_diffing.subsets import effective_chat_only, random_shared
from interp_jax.studies.model_diffing.work import (
    AUTOINTERP,
    CAUSALITY,
    JUDGE_LOG,
    Work,
    plain,
    say,
)
from interp_jax.text.judges.endpoint import EndpointConfig, EndpointJudge
from interp_jax.text.judges.judge import Judge
from interp_jax.text.judges.local import LocalJudge

_EXPLAIN, _SCORE = 10, 10


def causality_stage(
    work: Work, scaling: LatentScaling, *, make: bool
) -> tuple[Causality, Sets] | None:
    """The experiment; None where it is not there and not to be made.

    Raises:
        UserError: too few latents to compare; in a run of all stages that is only said.
    """
    if not make and not work.has(CAUSALITY):
        return None
    config = work.config
    effective = effective_chat_only(work.delta, config.effective)
    try:
        sets = choose_sets(
            work.delta, scaling.ratios, scaling.alive, effective, random_sets=config.random_sets,
            seed=config.seed,
        )
    except UserError as error:
        if config.stage == "causality":
            raise
        say(f"No causality experiment. {error}")
        return None
    on_cpu = jax.default_backend() == "cpu"
    plan = PatchPlan(
        work.layer, base=config.base_output, chat=config.chat_output,
        capacity=min(config.capacity, work.dictionary.config.latents),
        rows_at_once=1 if on_cpu else 256, conditions_at_once=1 if on_cpu else 4,
        skip_first=config.skip_first, replace_tokens=config.replacements(),
    )
    count = -(-config.conversations // config.batch_size)
    rows = itertools.islice(work.rows(held_out=True), count)
    with (
        work.workdir.journal(CAUSALITY) as journal,
        Progress(count * config.batch_size, "causality", unit="conversations",
                 log_every=config.log_every) as bar,
    ):  # fmt: skip
        found = measure_causality(
            work.base.network, work.chat.network, work.dictionary, (r.batch() for r in rows),
            paper_conditions(sets), plan, keys.fold(work.key, "causality"), journal, bar.update,
        )
    return found, sets


def autointerp_stage(
    work: Work, scaling: LatentScaling, examples: Found | None, *, make: bool
) -> dict[str, Any] | None:
    """Explanations with their scores: of the latents of largest Delta, and of shared ones.

    Kept once made; None where there are none and none are to be made.
    """
    config = work.config
    if work.has(AUTOINTERP):
        return json.loads((work.workdir / AUTOINTERP).read_text(encoding="utf-8"))
    if not make or config.judge == "none" or examples is None:
        return None
    alive = np.where(scaling.alive & (examples.examples.density > 0), work.delta, np.nan)
    groups = {
        "largest Delta": effective_chat_only(alive, config.explained),
        "shared": random_shared(alive, config.explained, config.seed),
    }
    chosen = np.unique(np.concatenate(list(groups.values()))).tolist()
    similar = similar_texts(work, examples, chosen) if config.negatives == "similar" else {}
    material, skipped = {}, []
    for latent in chosen:
        silent = None
        if "detection" in config.scorers:
            silent = similar[latent] if similar else examples.silent_for(latent)
        one = gather(
            examples.texts_of(latent), silent, explain=_EXPLAIN, score=_SCORE, seed=config.seed
        )
        if one is None:
            skipped.append(latent)
        else:
            material[latent] = one
    if not material and config.stage != "autointerp":
        say("No explanations: no latent has enough examples.")
        return None
    with explaining_judge(work) as judge:
        explained = explain_and_score(
            judge, material, lambda ids: token_texts(work.chat.tokenizer, ids),
            scorers=config.scorers, seed=config.seed,
        )
        say(f"Explanations by {judge.name}: {judge.totals.line()}.")
    found = {
        "groups": {name: [int(j) for j in of] for name, of in groups.items()},
        "scorers": list(config.scorers), "negatives": config.negatives,
        "latents": [plain(one) for one in explained], "skipped": skipped,
    }
    work.workdir.write_json(AUTOINTERP, found)
    return found


def explaining_judge(work: Work) -> Judge:
    """The judge that the config names; every reply goes to the log in the workdir."""
    config, log = work.config, work.workdir / JUDGE_LOG
    if config.judge == "local":
        return LocalJudge(load(config.judge_model, dtype=config.dtype), log=log)
    where = EndpointConfig(
        config.judge_model, config.judge_url, api_key_env=config.judge_key_variable
    )
    return EndpointJudge(where, log=log)
