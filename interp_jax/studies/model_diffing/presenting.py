"""The results of a run as the report wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.delta import class_counts
from interp_jax.studies.model_diffing.bootstrap import Resamples
from interp_jax.studies.model_diffing.causality import (
    Causality,
    best_against_worst,
    recovered_table,
)
from interp_jax.studies.model_diffing.conditions import Sets
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.studies.model_diffing.examples_stage import Found
from interp_jax.studies.model_diffing.explanation_scores import explained_of, mean_accuracy
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling
from interp_jax.studies.model_diffing.latent_table import class_names
from interp_jax.studies.model_diffing.subsets import (
    DECOUPLING,
    SHRINKAGE,
    effective_chat_only,
    random_shared,
    verdicts,
)
from interp_jax.studies.model_diffing.template_tokens import TemplateStatistics, share_above
from interp_jax.studies.model_diffing.twins import EDGES
from interp_jax.studies.model_diffing.work import plain

BINS = 50
POINTS = 1500
"""Latents of a set that the scatter shows; more are drawn from at random, and that is said."""
TWINS_SHOWN = 500
"""Pairs that the table shows, those of largest cosine; that there are more is said."""
DIVERGES = 0.5
"""Divergence above which twins are told to diverge. The paper's bound is not known."""


@dataclass(frozen=True)
class Findings:
    """All results that are there.

    Attributes:
        delta: [F], the paper's Delta. scaling: of every latent.
        examples, causality, sets, explained: None where that stage was not run.
    """

    delta: np.ndarray
    scaling: LatentScaling
    examples: Found | None = None
    causality: Causality | None = None
    sets: Sets | None = None
    explained: Mapping[str, Any] | None = None


def report_parts(found: Findings, facts: Mapping[str, Any], config: ModelDiffingConfig):
    """Everything the page shows, as plain values."""
    return {
        "facts": plain(dict(facts)),
        "quality": quality(found),
        "delta": delta_part(found),
        "scaling": scaling_part(found, config),
        "causality": causality_part(found, config),
        "template": template_part(found, config),
        "twins": twins_part(found, config),
        "explained": explained_part(found),
    }


def quality(found: Findings) -> dict[str, Any]:
    """FVE, L0 and counts."""
    s = found.scaling
    return plain({
        "tokens": s.tokens, "latents": len(found.delta), "alive": int(s.alive.sum()),
        "dead_share": float(1 - s.alive.mean()), "fve": s.fve, "fve_base": s.fve_base,
        "fve_chat": s.fve_chat, "l0": s.l0,
    })


def delta_part(found: Findings) -> dict[str, Any]:
    """The histogram and the classes, over all latents and over alive ones."""
    delta, alive = found.delta, found.scaling.alive
    known = np.isfinite(delta)
    edges = np.linspace(0, 1, BINS + 1)
    count = lambda of: np.histogram(delta[of & known], edges)[0].tolist()
    counts = class_counts(jnp.asarray(delta, jnp.float32), jnp.asarray(alive))
    return {
        "edges": edges.tolist(), "all": count(np.ones_like(alive)), "alive": count(alive),
        "counts": {name: int(of) for name, of in counts.items()}, "unknown": int((~known).sum()),
    }


def scaling_part(found: Findings, config: ModelDiffingConfig) -> dict[str, Any]:
    """Both ratios of the effective chat-only set and of as many shared latents, and verdicts."""
    delta, s = found.delta, found.scaling
    alive = np.where(s.alive, delta, np.nan)
    effective = effective_chat_only(alive, config.effective)
    # As many of the others as there are of the set: a set of everything has nothing beside it.
    shared = np.setdiff1d(random_shared(alive, len(effective), config.seed), effective)
    groups = {"effective chat-only": effective, "shared": shared}
    names = class_names(delta)
    points, tables = {}, {}
    for group, latents in groups.items():
        draw = np.random.default_rng([config.seed, len(latents)])
        chosen = latents
        if len(latents) > POINTS:
            chosen = np.sort(draw.choice(latents, POINTS, replace=False))
        points[group] = {
            "of": len(latents), "latents": chosen.tolist(),
            "nu_eps": _listed(s.ratios["nu_eps"][chosen]),
            "nu_r": _listed(s.ratios["nu_r"][chosen]),
            "nu_eps_se": _listed(s.errors["nu_eps"][chosen]),
            "nu_r_se": _listed(s.errors["nu_r"][chosen]),
            "delta": _listed(delta[chosen]), "class": names[chosen].tolist(),
        }  # fmt: skip
        tables[group] = {
            "verdicts": verdicts(latents, s.ratios["nu_eps"], s.ratios["nu_r"]),
            "quantiles": {
                which: {name: _quantiles(of[name][latents]) for name in ("nu_eps", "nu_r")}
                for which, of in (("own", s.ratios), *s.controls.items())
            },
            "betas": {
                which: {name: _quantiles(of[name][latents])
                        for name in ("error_base", "error_chat")}
                for which, of in (("own", s.betas), *s.controls.items())
            },
        }  # fmt: skip
    pair = np.isfinite(delta) & s.alive
    correlation = {}
    for name in ("nu_eps", "nu_r"):
        both = pair & (s.ratios[name] >= -0.1) & (s.ratios[name] <= 2)
        spread = both.sum() > 2 and np.ptp(delta[both]) > 0 and np.ptp(s.ratios[name][both]) > 0
        correlation[name] = (
            float(np.corrcoef(delta[both], s.ratios[name][both])[0, 1]) if spread else None
        )
    return {"points": points, "tables": tables, "correlation_with_delta": correlation,
            "like_shared": {name: like_shared(delta, s, name) for name in ("nu_eps", "nu_r")},
            "bounds": {"nu_eps": SHRINKAGE, "nu_r": DECOUPLING}}  # fmt: skip


def like_shared(delta: np.ndarray, s: LatentScaling, name: str) -> float | None:
    """Share of alive chat-only latents whose ratio lies in the central 95 % of shared ones."""
    names, nu = class_names(delta), s.ratios[name]
    own, shared = (nu[(names == of) & np.isfinite(nu)] for of in ("chat_only", "shared"))
    if not len(own) or not len(shared):
        return None
    low, high = np.quantile(shared, [0.025, 0.975])
    return float(np.mean((own >= low) & (own <= high)))


def causality_part(found: Findings, config: ModelDiffingConfig) -> dict[str, Any] | None:
    """The table of KL recovered, and whether the scores rank latents by what they do."""
    if found.causality is None or found.sets is None:
        return None
    resamples = Resamples(
        found.causality.counts.shape[1], times=config.resamples, seed=config.seed
    )
    return plain({
        "conversations": resamples.rows,
        "chosen": len(found.sets.chosen),
        "cells": recovered_table(found.causality, resamples),
        "ranking": best_against_worst(found.causality, resamples),
    })


def template_part(found: Findings, config: ModelDiffingConfig) -> dict[str, Any] | None:
    """How many latents of each class fire on the template's tokens."""
    if found.examples is None:
        return None
    t: TemplateStatistics = found.examples.template
    resamples = Resamples(len(t.groups), times=config.resamples, seed=config.seed)
    names, edges = class_names(found.delta), np.linspace(0, 1, 21)
    rows = []
    for name in ("chat_only", "shared", "base_only", "other"):
        latents = np.flatnonzero((names == name) & np.isfinite(t.share))
        if not len(latents):
            rows.append({"class": name, "latents": 0})
            continue
        rows.append({
            "class": name, "latents": len(latents),
            "mainly": share_above(t, latents, 0.5, resamples),
            "a_third": share_above(t, latents, 1 / 3, resamples),
            "histogram": np.histogram(t.share[latents], edges)[0].tolist(),
            "median": float(np.median(t.share[latents])),
            "slots": [float(of) for of in np.mean(t.slots[latents], axis=0)],
        })
    return plain({"classes": rows, "of_data": t.of_data, "tokens": found.examples.examples.tokens,
                  "groups": len(t.groups)})  # fmt: skip


def twins_part(found: Findings, config: ModelDiffingConfig) -> dict[str, Any] | None:
    """The twins, and how many of them are strong at different tokens."""
    if found.examples is None:
        return None
    t, counts = found.examples.twins, delta_part(found)["counts"]
    divergence, strong = t.divergence, t.strong
    known = np.isfinite(divergence)
    shown = np.argsort(-t.cosine, kind="stable")[:TWINS_SHOWN]
    return plain({
        "pairs": len(t.cosine), "cosine": config.twin_cosine, "bound": DIVERGES,
        "chat_only": counts["chat_only_alive"], "base_only": counts["base_only_alive"],
        "known": int(known.sum()), "diverging": int((divergence[known] > DIVERGES).sum()),
        "joint": np.sum(t.joint, axis=0, dtype=np.int64).tolist(), "edges": list(EDGES),
        "table": [
            {"chat": int(t.chat[k]), "base": int(t.base[k]), "cosine": float(t.cosine[k]),
             "divergence": float(divergence[k]), "strong": int(strong[k]),
             "both": int(t.joint[k, -1, -1])}
            for k in shown
        ],
    })  # fmt: skip


def explained_part(found: Findings) -> dict[str, Any] | None:
    """Explanations with their scores, and the mean over each group of latents."""
    if found.explained is None:
        return None
    explained = [explained_of(record) for record in found.explained["latents"]]
    groups = {
        name: {
            scorer: mean_accuracy([e.scores[scorer] for e in explained if e.latent in set(latents)])
            for scorer in found.explained["scorers"]
        }
        for name, latents in found.explained["groups"].items()
    }
    scores = [score for e in explained for score in e.scores.values()]
    return plain({
        "groups": groups, "skipped": len(found.explained["skipped"]),
        "similar": found.explained["negatives"] == "similar",
        "unanswered": sum(s.unanswered for s in scores),
        "asked": sum(s.unanswered + s.positives + s.negatives for s in scores),
        "left_out": sum(s.left_out for s in scores),
        "latents": [
            {"latent": e.latent, "delta": float(found.delta[e.latent]),
             "explanation": e.explanation,
             "scores": {
                 scorer: {"accuracy": s.balanced_accuracy, "hits": s.hits,
                          "positives": s.positives, "rejections": s.rejections,
                          "negatives": s.negatives}
                 for scorer, s in e.scores.items()
             }}
            for e in explained
        ],
        "judge": sorted({e.judge for e in explained}),
        "versions": sorted({*(e.version for e in explained), *(s.version for s in scores)}),
    })  # fmt: skip


def scalars(found: Findings) -> dict[str, float]:
    """Numbers for the metric writers."""
    counts = delta_part(found)["counts"]
    numbers = {f"classes/{name}": float(count) for name, count in counts.items()}
    s = found.scaling
    return numbers | {"fve": s.fve, "l0": s.l0, "alive_share": float(s.alive.mean())}


def _listed(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _quantiles(values: np.ndarray) -> list[float] | None:
    """5, 25, 50, 75 and 95 % of what is known."""
    values = values[np.isfinite(values)]
    return None if not len(values) else np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
