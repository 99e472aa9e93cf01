"""From rollouts to importance: similarities by MiniLM, then the estimators of `importance`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp_jax.report.embed import plain
from interp_jax.studies.thought_anchors.branches import (
    Absence,
    Encode,
    Resilience,
    absences,
    content_similarity,
)
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.importance import SentenceImportance, sentence_importance
from interp_jax.studies.thought_anchors.rollout_pools import (
    Estimate,
    ImportanceConfig,
    RolloutPool,
)
from interp_jax.studies.thought_anchors.rollouts import Rollout
from interp_jax.studies.thought_anchors.sentence_matrix import SentenceMatrix, sentence_matrix


@dataclass(frozen=True)
class Scores:
    """What the rollouts say of each sentence.

    Attributes:
        importance: one record per sentence with rollouts.
        cosines: by sentence, float [n], similarity of S_i and each T_i; NaN where nothing was
            written.
        matrix: sentence to sentence.
        absences: CF++ of each sentence.
        resilience: of each sentence; empty if it was not measured.
        forced: whether there were forced answers; without, their importance reads 0.
    """

    importance: list[SentenceImportance]
    cosines: dict[int, np.ndarray]
    matrix: SentenceMatrix
    absences: list[Absence] = field(default_factory=list)
    resilience: list[Resilience] = field(default_factory=list)
    forced: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values, null where a number is not defined."""
        return plain(dataclasses.asdict(self) | {
            "cosines": {str(index): own.tolist() for index, own in self.cosines.items()}
        })

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Scores:
        """What `to_json` gave."""
        matrix = values["matrix"]
        return cls(
            [_estimates(SentenceImportance, one) for one in values["importance"]],
            {int(index): _floats(own) for index, own in values["cosines"].items()},
            SentenceMatrix(
                *(_floats(matrix[name]) for name in ("matrix", "low", "high")),
                *(np.asarray(matrix[name], np.int64) for name in ("matches", "rollouts")),
            ),
            [_estimates(Absence, one) for one in values["absences"]],
            [
                Resilience(**one | {n: tuple(one[n]) for n in ("removals", "stayed")})
                for one in values["resilience"]
            ],
            values["forced"],
        )


def score_rollouts(
    texts: Sequence[str], rollouts: Mapping[int, Sequence[Rollout]], encode: Encode,
    config: ThoughtAnchorsConfig, *, forced: Mapping[int, RolloutPool] | None = None,
    resilience: Sequence[Resilience] = (),
) -> Scores:
    """Importance, similarities, the sentence matrix and CF++ of a trace's rollouts.

    Args:
        texts: the sentences.
        rollouts: by index of the sentence that they go without.
        encode: texts to unit vectors; see `remembered`.
        config: choices.
        forced: forced answers by boundary.
        resilience: as measured before.
    """
    encode = remembered(encode)
    cosines, pools = _cosines(texts, rollouts, encode), {}
    for index, own in rollouts.items():
        pools[index] = RolloutPool(
            answers=[rollout.answer for rollout in own],
            correct=[rollout.correct for rollout in own],
            cosines=cosines[index].tolist() if index in cosines else None,
            replacements=[rollout.first for rollout in own],
        )
    choices = ImportanceConfig(
        smoothing=config.smoothing, threshold=config.similarity_threshold, seed=config.seed,
        none_is_outcome=config.reference_compat,
    )
    written = {index: [rollout.text for rollout in own] for index, own in rollouts.items()}
    matrix = sentence_matrix(texts, written, encode, threshold=config.similarity_threshold)
    importance = sentence_importance(pools, choices, sentences=len(texts), forced=forced)
    near = content_similarity(texts, written, encode)
    absent = absences(pools, near, config.content_threshold, choices)
    return Scores(importance, cosines, matrix, absent, list(resilience), bool(forced))


def remembered(encode: Encode) -> Encode:
    """The same encoder, which embeds each text once however often it is asked."""
    known: dict[str, np.ndarray] = {}

    def remembering(texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode(new), strict=True))
        return np.stack([known[text] for text in texts])

    return remembering


def _cosines(
    texts: Sequence[str], rollouts: Mapping[int, Sequence[Rollout]], encode: Encode
) -> dict[int, np.ndarray]:
    firsts = {
        index: [rollout.first for rollout in own]
        for index, own in rollouts.items() if index < len(texts)
    }
    every = list(dict.fromkeys([*texts, *(t for own in firsts.values() for t in own if t)]))
    vector = dict(zip(every, encode(every), strict=True)) if every else {}
    return {
        index: np.asarray([
            float(np.dot(vector[texts[index]], vector[first])) if first else np.nan
            for first in own
        ])
        for index, own in firsts.items()
    }


def _floats(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _estimates(cls: type, values: Mapping[str, Any]) -> Any:
    """A record whose mappings are estimates, with NaN for null."""
    return cls(**{
        name: Estimate(**{k: math.nan if v is None else v for k, v in value.items()})
        if isinstance(value, Mapping) else value
        for name, value in values.items()
    })
