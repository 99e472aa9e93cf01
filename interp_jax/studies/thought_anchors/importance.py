"""Black-box importance of sentences from rollouts: resampling, counterfactual and forced.

Rollouts stored at sentence i continue from S_0 ... S_{i-1}: the model writes its own i-th sentence,
so they are the condition "S_i absent", and those at the next index the condition "S_i present"
(arXiv 2506.19143, sections on resampling and counterfactual importance).

Signs, once and for all (`SIGNS`; times the value, positive = the sentence helps the answer):
resampling and forced accuracy are POSITIVE when a sentence helps, counterfactual accuracy is
NEGATIVE when it helps (the released convention, kept so that files compare), and every KL is
unsigned.

Each value comes with a percentile bootstrap interval (rollouts redrawn within their index) and a
null: the two pools are joined and split at random, which says how large a value pure chance
gives with these counts. A KL below its null's 95 % point is noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp_jax.studies.thought_anchors.intervals import wilson_interval
from interp_jax.studies.thought_anchors.rollout_pools import (
    CodedPool,
    Estimate,
    ImportanceConfig,
    RolloutPool,
    code_pools,
    compare,
)

SIGNS: dict[str, int] = {
    "resampling_importance_accuracy": +1,
    "counterfactual_importance_accuracy": -1,
    "forced_importance_accuracy": +1,
}
"""Factor that makes a value positive when the sentence helps; KL values have no sign."""

_ZERO = Estimate(0.0)
_UNKNOWN = Estimate(float("nan"))


@dataclass(frozen=True)
class SentenceImportance:
    """Everything measured of one sentence; names as in the released records.

    `next_index` is the index whose rollouts stand for "present", None for the last one.
    `accuracy` is NaN and `kept` 0 where no rollout of the index was kept; similarity-based values
    are NaN where similarities were not measured. The last sentence's different-trajectories
    fraction and overdeterminedness are measured like any other's (the released records hold 0).
    """

    chunk_idx: int
    next_index: int | None
    rollouts: int
    kept: int
    accuracy: Estimate
    resampling_importance_accuracy: Estimate = _ZERO
    resampling_importance_kl: Estimate = _ZERO
    counterfactual_importance_accuracy: Estimate = _ZERO
    counterfactual_importance_kl: Estimate = _ZERO
    forced_importance_accuracy: Estimate = _ZERO
    forced_importance_kl: Estimate = _ZERO
    different_trajectories_fraction: Estimate = _ZERO
    overdeterminedness: float = 0.0
    dissimilar: int = 0
    similar: int = 0

    def record(self) -> dict[str, float | int]:
        """Point values under the names and in the order of a released sentence record."""
        names = (
            "accuracy",
            "resampling_importance_accuracy",
            "resampling_importance_kl",
            "counterfactual_importance_accuracy",
            "counterfactual_importance_kl",
            "forced_importance_accuracy",
            "forced_importance_kl",
            "different_trajectories_fraction",
        )
        values = {name: float(getattr(self, name).value) for name in names}
        return {
            "chunk_idx": self.chunk_idx,
            **values,
            "overdeterminedness": self.overdeterminedness,
        }


def overdeterminedness(replacements: Sequence[str]) -> float:
    """1 - distinct replacement strings / rollouts; 0 without rollouts."""
    return 1.0 - len(set(replacements)) / len(replacements) if replacements else 0.0


def sentence_importance(
    pools: Mapping[int, RolloutPool],
    config: ImportanceConfig | None = None,
    *,
    sentences: int | None = None,
    forced: Mapping[int, RolloutPool] | None = None,
) -> list[SentenceImportance]:
    """Importance of each sentence that has rollouts.

    Args:
        pools: rollouts by index. A pool at index N (after the last sentence) is allowed; it is
            the "present" side of the last sentence, which otherwise gets zeros.
        config: choices; None for the defaults.
        sentences: N; pools from N on give no record. Default: every pool gives one.
        forced: forced answers by boundary, if made: thinking closed before S_i; index N: after the
            last sentence.

    Returns:
        One record per index with rollouts, in order.
    """
    config = config or ImportanceConfig()
    coded = code_pools(pools, config)
    coded_forced = code_pools(forced or {}, config)
    if config.none_is_outcome:
        spelled = code_pools(pools, config, keep_none=True)
        spelled_forced = code_pools(forced or {}, config, keep_none=True)
    else:
        spelled, spelled_forced = coded, coded_forced
    records = []
    for index in sorted(pools):
        if sentences is not None and index >= sentences:
            continue
        here, following = coded[index], _next(index, coded)
        fields: dict[str, Estimate] = {}
        if following is not None and here.kept:
            fields |= _whole("resampling", index, coded, spelled, config)
            fields |= _counterfactual(index, here, coded[following], config)
        if index in coded_forced:
            fields |= _whole("forced", index, coded_forced, spelled_forced, config)
        records.append(_record(index, following, here, fields, config))
    return records


def _whole(
    kind: str,
    index: int,
    coded: Mapping[int, CodedPool],
    spelled: Mapping[int, CodedPool],
    config: ImportanceConfig,
) -> dict[str, Estimate]:
    """All rollouts of an index against all of the next; the KL may count other answers."""
    following = _next(index, coded)
    if following is None or not coded[index].kept:
        return {}
    accuracy, kl = compare(kind, index, coded[index], coded[following], config)
    if spelled is not coded:
        _, kl = compare(kind, index, spelled[index], spelled[following], config)
    return {f"{kind}_importance_accuracy": accuracy, f"{kind}_importance_kl": kl}


def _counterfactual(
    index: int, here: CodedPool, there: CodedPool, config: ImportanceConfig
) -> dict[str, Estimate]:
    if not here.measured:
        accuracy = kl = _UNKNOWN
    elif not here.dissimilar.any():
        return {}
    else:
        sides = here.dissimilar, here.similar
        accuracy, kl = compare("counterfactual", index, here, there, config, sides)
    return {
        "counterfactual_importance_accuracy": accuracy,
        "counterfactual_importance_kl": kl,
    }


def _record(
    index: int,
    following: int | None,
    here: CodedPool,
    fields: dict[str, Estimate],
    config: ImportanceConfig,
) -> SentenceImportance:
    right, different = int(here.correct.sum()), int(here.dissimilar.sum())
    if not here.kept or not here.measured:
        fields["different_trajectories_fraction"] = _UNKNOWN
    else:
        fields["different_trajectories_fraction"] = _proportion(different, here.kept, config)
    return SentenceImportance(
        chunk_idx=index,
        next_index=following,
        rollouts=here.total,
        kept=here.kept,
        accuracy=_proportion(right, here.kept, config) if here.kept else _UNKNOWN,
        overdeterminedness=overdeterminedness(here.replacements),
        dissimilar=different,
        similar=int(here.similar.sum()),
        **fields,
    )


def _proportion(successes: int, trials: int, config: ImportanceConfig) -> Estimate:
    low, high = wilson_interval(successes, trials, config.confidence)
    return Estimate(successes / trials, float(low), float(high))


def _next(index: int, coded: Mapping[int, CodedPool]) -> int | None:
    return min((other for other in coded if other > index and coded[other].kept), default=None)
