"""Made-up report data from a seed, with the shape of a run; no model wrote any of it."""

from __future__ import annotations

from typing import Any

import numpy as np

SENTENCES = (
    "We need to find how many legs the animals have in total.",
    "There are 3 cows, 2 hens and 1 spider in the barn.",
    "A cow has 4 legs, so the cows have 3 * 4 = 12 legs.",
    "A hen has 2 legs, so the hens have 2 * 2 = 4 legs.",
    "Wait, does the spider count as an animal here?",
    "Yes, it does, and a spider has 8 legs rather than 6.",
    "So we add 12 + 4 + 8.",
    "12 + 4 = 16.",
    "16 + 8 = 24.",
    "Let me check this once more by counting pairs: 6 + 2 + 4 = 12 pairs, which is 24 legs.",
    "The total number of legs is therefore 24.",
    "The answer is 24.",
)
FIRST_SOURCE = 6  # a paragraph starts here


def make_report(seed: int = 0, count: int = 12, rollouts: int = 32) -> dict[str, Any]:
    """Returns data for `write_report`: `count` sentences, every method present."""
    rng = np.random.default_rng(seed)
    texts = [SENTENCES[i % len(SENTENCES)] for i in range(count)]
    text, sentences = "", []
    for index, words in enumerate(texts):
        text += "\n\n" if index and index % FIRST_SOURCE == 0 else " " if index else ""
        start, text = len(text), text + words
        sentences.append(
            {
                "index": index,
                "text": words,
                "start": start,
                "end": len(text),
                "tokens": len(words) // 4,
                "label": "plan_generation" if index == 0 else None,
            }
        )
    matrix, raw = _suppression(rng, count)
    return {
        "title": "Which sentence made the count come out right?",
        "model": {
            "id": "made-up-135M",
            "weights": "sha256:0f3c" + "a1" * 14,
            "dtype": "float32",
            "layers": 6,
            "heads": 4,
        },
        "run": {
            "seed": seed,
            "versions": {"interp_jax": "0.1.0", "jax": "0.10.2"},
            "device": "cpu, 2 cores",
            "tokens_generated": 48213,
            "seconds": 312.4,
            "tokens_per_second": 154.3,
            "compilations": 11,
            "date": "2026-01-02",
            "config": {"max_new_tokens": 320, "temperature": 0.6, "note": "made up"},
        },
        "problem": {
            "id": "leg_counting 7/13",
            "question": "In a barn are 3 cows, 2 hens and 1 spider.\nHow many legs are there?",
            "answer": "24",
            "rule": "last integer",
            "screen": {
                "candidates": 240,
                "accuracy": 0.47,
                "interval": [0.35, 0.59],
                "n": 64,
                "chosen_by": "accuracy in 25 to 75 %",
            },
        },
        "trace": {"text": text, "answer": "24", "is_correct": True, "sentences": sentences},
        "rollouts": {
            "per_sentence": rollouts,
            "unfinished_share": 0.031,
            "unanswered_share": 0.058,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_new_tokens": 320,
            "similarity_threshold": 0.8,
        },
        "resampling": [_resampled(rng, i, count, rollouts, texts[i]) for i in range(count)],
        "sentence_matrix": _links(rng, count),
        "receiver": {
            "heads": [
                {"layer": int(k // 2) + 1, "head": int(k % 4), "kurtosis": 9.0 - 1.3 * k}
                for k in range(6)
            ],
            "scores": [
                float(0.004 + 0.02 * rng.random()) if i < count - 3 else None for i in range(count)
            ],
            "heatmap": rng.gamma(1.0, 1.5, (6, 4)),
        },
        "suppression": {
            "matrix": matrix,
            "raw": raw,
            "outgoing": [
                float(np.nanmean(matrix[i + 1 :, i])) if i < count - 1 else None
                for i in range(count)
            ],
            "distance_profile": [
                float(np.nanmean(np.diagonal(matrix, -d))) for d in range(1, count)
            ],
            "control": {
                "outgoing": [0.1 * (i - count / 2) / count for i in range(count)],
                "explained": 0.58,
            },
            "mode": "exact",
        },
        "notes": [
            "KL uses add-one smoothing over the answers seen.",
            "Intervals are percentile bootstraps over rollouts.",
        ],
    }


def _resampled(
    rng: np.random.Generator, index: int, count: int, rollouts: int, text: str
) -> dict[str, Any]:
    share = 0.4 + 0.55 * (index >= count // 2) + 0.03 * rng.random()
    answered = rollouts - int(rng.integers(0, 4))
    right = int(round(answered * share))
    wrong = answered - right
    answers = {"24": right, "22": wrong // 2, "16": wrong - wrong // 2}
    pivotal = index == count // 2 - 1
    kl = 0.62 if pivotal else float(0.02 + 0.1 * rng.random())
    change = 0.48 if pivotal else float(rng.normal(0, 0.05))
    # The similarities differ between sentences, so a filter shows another number for each.
    different = int(rng.integers(rollouts // 4, rollouts // 2))
    return {
        "accuracy": right / answered,
        "interval": [max(0.0, share - 0.16), min(1.0, share + 0.14)],
        "n": rollouts,
        "answers": {answer: times for answer, times in answers.items() if times},
        "resampling_accuracy": change if index < count - 1 else None,
        "resampling_accuracy_interval": [change - 0.18, change + 0.18],
        "resampling_kl": kl if index < count - 1 else None,
        "resampling_kl_interval": [kl * 0.5, kl * 1.5 + 0.05],
        "resampling_kl_null": 0.14,
        "counterfactual_accuracy": -change if index < count - 1 else None,
        "counterfactual_accuracy_interval": [-change - 0.25, -change + 0.25],
        "counterfactual_kl": kl * 1.2 if index < count - 1 else None,
        "counterfactual_kl_interval": [kl * 0.4, kl * 2.1],
        "counterfactual_kl_null": 0.2,
        "different_trajectories": different / rollouts,
        "overdeterminedness": float(rng.random()),
        "alternatives": [
            {
                "text": f"Another way to put it, number {k}: {text[: 24 + 3 * k]}",
                "similarity": 0.3 + 0.01 * k if k < different else 0.82 + 0.003 * k,
                "answer": None if k % 11 == 5 else "24" if k % 3 else "22",
                "is_correct": None if k % 11 == 5 else bool(k % 3),
            }
            for k in range(rollouts)
        ],
    }


def _suppression(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    target, source = np.mgrid[:count, :count]
    raw = -6.0 + 4.0 / np.maximum(1, target - source) + rng.normal(0, 0.7, (count, count))
    raw = np.where(source < target, raw, np.nan)
    matrix = raw.copy()
    for row in range(1, count):
        matrix[row] -= np.nanmean(matrix[row])
    return matrix, raw


def _links(rng: np.random.Generator, count: int) -> np.ndarray:
    source, target = np.mgrid[:count, :count]
    links = np.clip(rng.normal(0, 0.12, (count, count)) + 0.3 / (1 + abs(target - source)), -1, 1)
    return np.where((source < target) & (source < count - 1), links, np.nan)


TAGS = {
    "plan_generation": ("PG", "#EA4335"),
    "active_computation": ("AC", "#34A853"),
    "final_answer_emission": ("FAE", "#795548"),
}


def make_full_report(seed: int = 0, count: int = 12, rollouts: int = 32) -> dict[str, Any]:
    """As `make_report`, with everything besides that is off by default."""
    data, rng = make_report(seed, count, rollouts), np.random.default_rng(seed + 1)
    names = list(TAGS)
    data["trace"]["tags"] = [
        {
            "name": name, "words": name.replace("_", " "), "short": short,
            "meaning": f"What {short} means.", "colour": colour,
        }
        for name, (short, colour) in TAGS.items()
    ]
    for index, sentence in enumerate(data["trace"]["sentences"]):
        sentence["label"] = names[min(index * 3 // count, 2)]
        sentence["depends_on"] = sorted({index // 2, max(index - 1, 0)} - {index})
    for index, entry in enumerate(data["resampling"]):
        change = float(rng.normal(0, 0.1))
        entry |= {
            "forced_accuracy": change, "forced_accuracy_interval": [change - 0.1, change + 0.1],
            "forced_kl": abs(change), "forced_kl_interval": [0.0, abs(change) + 0.2],
            "forced_kl_null": 0.05,
            "content": {
                "absent": 7, "present": 30, "absent_fraction": 0.25,
                "absent_fraction_interval": [0.1, 0.4], "accuracy": change,
                "accuracy_interval": [change - 0.2, change + 0.2], "kl": 0.2,
                "kl_interval": [0.1, 0.3], "log_odds": 4 * change, "log_odds_interval": None,
                "resilience": 2.5, "stayed_out": 0.75, "chains": 8,
            } if index else None,
        }
    matrix, raw = _suppression(rng, count)
    data["masking"] = data["suppression"] | {
        "matrix": matrix, "raw": np.exp(raw),
        "edges": [
            {"source": k, "target": k + 1, "mean": 2.0 / (k + 1), "total": 9.0 / (k + 1),
             "first": 1.0 / (k + 1), "cleaned": 1.5 / (k + 1)}
            for k in range(count - 1)
        ],
        "count": count * (count - 1) // 2,
    }
    data["ablation"] = _ablated(rng)
    return data


def _ablated(rng: np.random.Generator) -> dict[str, Any]:
    change = {"value": -0.25, "interval": [-0.36, -0.13]}
    measure = lambda scale: {
        "value": 3 * scale, "controls": (scale * rng.random(20)).tolist(), "p_value": 1 / 21,
    }
    return {
        "heads": [{"layer": k // 2 + 1, "head": k % 4} for k in range(4)],
        "overlapping": [2],
        "kl": measure(0.1),
        "log_probability": measure(0.02),
        "answers": {
            "problems": 32,
            "samples": 4,
            "conditions": [
                {"name": name, "value": value, "interval": [value - 0.08, value + 0.08],
                 "unanswered": 0.05}
                for name, value in (("none", 0.5), ("receiver", 0.25), ("random", 0.47))
            ],
            "changes": [
                {"name": name, "against": other, **change}
                for name, other in (("receiver", "random"), ("receiver", "none"),
                                    ("random", "none"))
            ],
        },
    }
