"""Findings with every part filled, for the report's page and what is said in it."""

from __future__ import annotations

import jax
import numpy as np

from interp_jax.dictionaries.examples import collect_examples
from interp_jax.studies.model_diffing.causality import BASE_MODEL, Causality
from interp_jax.studies.model_diffing.conditions import choose_sets, paper_conditions
from interp_jax.studies.model_diffing.config import ModelDiffingConfig
from interp_jax.studies.model_diffing.examples_stage import Found
from interp_jax.studies.model_diffing.explanation_scores import Explained, Score
from interp_jax.studies.model_diffing.latent_scaling import LatentScaling
from interp_jax.studies.model_diffing.patched_forward import METRICS
from interp_jax.studies.model_diffing.positions import SETS
from interp_jax.studies.model_diffing.presenting import Findings, report_parts
from interp_jax.studies.model_diffing.subsets import effective_chat_only
from interp_jax.studies.model_diffing.template_tokens import TemplateStatistics
from interp_jax.studies.model_diffing.twins import BUCKETS, Twins
from interp_jax.studies.model_diffing.work import plain

F, R = 200, 12
EFFECTIVE = 40


def make_config(**over) -> ModelDiffingConfig:
    fields = dict(other_model="chat", dictionary="planted", effective=EFFECTIVE, resamples=200)
    return ModelDiffingConfig(**fields | over)


def make_examples():
    """Of one row of tokens."""
    code = np.zeros((1, 12, F), np.float32)
    code[0, 3, 5] = 2.0
    return collect_examples([(code, np.arange(12)[None])], F, jax.random.key(0))


def make_twins():
    """Three pairs: one diverges, one does not, of one nothing strong was seen.

    Their base-only latents never fire in `make_findings`, which a run would leave out.
    """
    joint = np.zeros((3, BUCKETS, BUCKETS), np.int32)
    joint[:, 0, 0] = 1000
    joint[0, 4, 0], joint[0, 1, 4], joint[0, 4, 4] = 6, 3, 1
    joint[1, 4, 3], joint[1, 4, 4] = 1, 4
    return Twins(
        np.asarray([2, 2, 7]), np.asarray([190, 193, 191]),
        np.asarray([0.93, 0.97, 0.91], np.float32), joint,
    )


def make_findings(seed: int = 0) -> Findings:
    """Latents 0 to 29 are the chat model's, the last ten never fire."""
    draw = np.random.default_rng(seed)
    delta = np.clip(np.concatenate([
        draw.uniform(0.91, 1, 30), draw.uniform(0.7, 0.89, 20), draw.normal(0.5, 0.03, 140),
        draw.uniform(0, 0.09, 10),
    ]), 0, 1)  # fmt: skip
    active = draw.integers(1, 5000, F).astype(float)
    active[-10:] = 0
    dead = active == 0
    near = lambda x: np.where(dead, np.nan, x)
    of = lambda: near(np.clip(2 * (1 - delta), 0, 1.2) + draw.normal(0, 0.05, F))
    ratios = {name: of() for name in ("nu_eps", "nu_r", "nu_act", "nu_act_no_bias")}
    ratios["nu_eps"][3], ratios["nu_r"][4] = 0.7, 0.9
    betas = {
        f"{target}_{model}": near(draw.normal(1, 0.1, F))
        for target in ("error", "reconstruction", "activation", "activation_no_bias")
        for model in ("base", "chat")
    }
    scaling = LatentScaling(
        tokens=123_456, active=active, largest=active / 100, betas=betas, ratios=ratios,
        errors={name: near(np.full(F, 0.02)) for name in ratios},
        controls={"random": {**{n: near(draw.normal(0, 0.3, F)) for n in ratios}, **betas}},
        fve=0.876, fve_base=0.881, fve_chat=0.871, l0=101.3,
    )
    sets = choose_sets(
        delta, ratios, scaling.alive, effective_chat_only(delta, EFFECTIVE), random_sets=2
    )
    conditions = paper_conditions(sets)
    names = (*(c.name for c in conditions), BASE_MODEL)
    counts = draw.integers(5, 50, (len(SETS), R)).astype(float)
    level = {"none": 0.48, "full": 0.0, "all latents": 0.2, BASE_MODEL: 0.5}
    kl = np.asarray([level.get(n, 0.3 if n.startswith("best") else 0.4) for n in names])
    mean = kl[:, None, None] * draw.uniform(0.8, 1.2, (1, len(SETS), R))
    sums = np.stack(
        [mean * counts * k for k in (1.0, 0.6, 1.1, 3.0, 2.0)], axis=1
    )
    assert sums.shape == (len(names), len(METRICS), len(SETS), R)
    share = near(np.clip(draw.beta(0.5, 2, F), 0, 1))
    share[:12], share[12:30] = 0.9, 0.2
    times = np.where(dead, 0, 100)
    template = (np.where(dead, 0, share) * times).round().astype(int)
    groups = np.broadcast_to(np.stack([template, times - template], -1), (4, F, 2))
    statistics = TemplateStatistics(
        share=share, user=near(np.full(F, 0.2)), assistant=near(np.full(F, 0.3)),
        bos=near(np.zeros(F)), slots=near(share / 10)[None].T.repeat(10, 1),
        by_strength=np.tile(share[:, None], (1, 4)), of_data=0.21, groups=groups,
    )
    scored = lambda hits, version, **over: Score(
        **dict(hits=hits, positives=10, rejections=9, negatives=10, unanswered=0, left_out=0,
               by_band={0: (3, 4)}, version=version) | over
    )  # fmt: skip
    latents = [
        Explained(j, f"words about {j} & <b>more</b>", "judge-1", "explain-1", {
            "detection": scored(8 - j % 3, "detect-1", unanswered=j % 2),
            "fuzzing": scored(6 - j % 3, "fuzz-1", left_out=j % 2),
        })
        for j in (0, 1, 2, 100)
    ]  # fmt: skip
    explained = {"groups": {"largest Delta": [0, 1, 2], "shared": [100]}, "skipped": [5],
                 "scorers": ["detection", "fuzzing"], "negatives": "random",
                 "latents": [plain(one) for one in latents]}  # fmt: skip
    sizes = tuple(None if c.name in ("none", "full", "template") else 10 for c in conditions)
    return Findings(
        delta, scaling, Found(make_examples(), statistics, np.ones(F), {}, make_twins()),
        Causality(names, (*sizes, None), sums, counts), sets, explained,
    )


FACTS = {
    "model": "chat", "other": None, "base": {"model": "base", "weights": "abc"}, "seconds": 12.3,
    "compilations": 7, "site": "resid_post[13]", "data": "chats.jsonl", "config": {"seed": 0},
    "versions": {"jax": "0"},
}  # fmt: skip


def make_parts(findings: Findings | None = None, **over) -> dict:
    return report_parts(findings or make_findings(), FACTS, make_config(**over))
