"""From rollouts to importance: similarities by MiniLM, then the estimators of `importance`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.importance import SentenceImportance, sentence_importance
from interp_jax.studies.thought_anchors.rollout_pools import ImportanceConfig, RolloutPool
from interp_jax.studies.thought_anchors.rollouts import Rollouts
from interp_jax.studies.thought_anchors.sentence_matrix import SentenceMatrix, sentence_matrix
from interp_jax.text.embeddings import SentenceEncoder


@dataclass(frozen=True)
class Scores:
    """What the rollouts say of each sentence.

    Attributes:
        importance: one record per sentence.
        cosines: for each sentence, float [n], similarity of S_i and each T_i; NaN where nothing
            was written.
        matrix: sentence to sentence.
    """

    importance: list[SentenceImportance]
    cosines: list[np.ndarray]
    matrix: SentenceMatrix


def score_rollouts(
    trace: Trace, rollouts: Rollouts, encoder: SentenceEncoder, config: ThoughtAnchorsConfig
) -> Scores:
    """Importance, similarities and the sentence matrix of a trace's rollouts."""
    texts = [sentence.text for sentence in trace.sentences]
    cosines, pools = _cosines(texts, rollouts, encoder), {}
    for index, own in rollouts.by_sentence.items():
        pools[index] = RolloutPool(
            answers=[rollout.answer for rollout in own],
            correct=[rollout.correct for rollout in own],
            cosines=cosines[index].tolist(),
            replacements=[rollout.first for rollout in own],
        )
    choices = ImportanceConfig(threshold=config.similarity_threshold, seed=config.seed)
    matrix = sentence_matrix(
        texts,
        {index: [r.text for r in own] for index, own in rollouts.by_sentence.items()},
        encoder.encode,
        threshold=config.similarity_threshold,
    )
    importance = sentence_importance(pools, choices, sentences=len(texts))
    return Scores(importance, cosines, matrix)


def _cosines(
    texts: list[str], rollouts: Rollouts, encoder: SentenceEncoder
) -> list[np.ndarray]:
    firsts = [[rollout.first for rollout in rollouts.by_sentence[i]] for i in range(len(texts))]
    every = list(dict.fromkeys([*texts, *(text for own in firsts for text in own if text)]))
    vector = dict(zip(every, encoder.encode(every), strict=True))
    return [
        np.asarray(
            [float(np.dot(vector[text], vector[first])) if first else np.nan for first in own]
        )
        for text, own in zip(texts, firsts, strict=True)
    ]
