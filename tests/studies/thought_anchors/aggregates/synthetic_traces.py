"""Traces in the released layout with known effects in them."""

from __future__ import annotations

import numpy as np

from interp_jax.studies.thought_anchors.aggregates.found import FoundTrace
from interp_jax.studies.thought_anchors.aggregates.measures import measure_trace
from interp_jax.studies.thought_anchors.normalise import normalise_suppression
from interp_jax.studies.thought_anchors.released import SENTENCE_KEYS, ReleasedTrace, write_trace
from interp_jax.studies.thought_anchors.released_matrices import impacts_from_matrix

TAGS = ("plan_generation", "active_computation", "fact_retrieval")


def make_trace(seed, size=30, *, effect=0.5, suppression=True, text="Sentence"):
    """Plan generation matters more by `effect` nats of counterfactual KL than the others."""
    rng = np.random.default_rng(seed)
    accuracy = np.clip(0.5 + 0.2 * rng.standard_normal(size), 0.1, 0.9)
    accuracy[-6:] = 1.0
    tags = [TAGS[i % 3] for i in range(size)]
    kl = 0.2 + 0.1 * rng.random(size) + effect * (np.arange(size) % 3 == 0)
    labeled = []
    for i in range(size):
        values = dict.fromkeys(SENTENCE_KEYS, 0.0) | {
            "chunk": f"{text} {i}.",
            "chunk_idx": i,
            "function_tags": [tags[i]],
            "depends_on": [],
            "summary": "",
            "accuracy": float(accuracy[i]),
            "resampling_importance_accuracy": float(accuracy[min(i + 1, size - 1)] - accuracy[i]),
            "resampling_importance_kl": float(kl[i] + 0.05 * rng.random()),
            "counterfactual_importance_accuracy": float(-0.1 * rng.random()),
            "counterfactual_importance_kl": float(kl[i]),
            "different_trajectories_fraction": float(rng.random()),
            "overdeterminedness": float(rng.random()),
        }
        labeled.append(values)
    texts = [one["chunk"] for one in labeled]
    gap = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    effects = normalise_suppression(8 * np.exp(-gap / 2) + rng.normal(size=(size, size)))
    later = np.tri(size, k=-1, dtype=bool).T
    kept = np.where(later, np.clip(0.3 * rng.standard_normal((size, size)), -1, 1), np.nan)
    return ReleasedTrace(
        labeled=labeled,
        step_importance=impacts_from_matrix(kept, texts),
        step_suppression=impacts_from_matrix(effects.T, texts) if suppression else None,
    )


def where(folder="problem", model="model", kind="correct", problem="problem"):
    return FoundTrace(folder, model, kind, problem)


def measured(count, **options):
    return [
        measure_trace(make_trace(seed, **options), where(problem=f"problem_{seed}"))
        for seed in range(count)
    ]


def write_release(root, count, model="some-model", kind="correct", **options):
    """`count` traces under root, in the released folders."""
    for seed in range(count):
        folder = root / model / f"{kind}_base_solution" / f"problem_{seed}"
        write_trace(folder, make_trace(seed + 100 * (kind != "correct"), **options))
    return root
