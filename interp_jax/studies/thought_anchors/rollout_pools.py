"""Pools of rollouts: counting their answers and comparing two pools, with intervals and a null.

The bootstrap redraws rollouts within their pool. The null deals the rollouts of both pools at
random to sides of the same sizes: what it gives is due to chance and to the finite-sample floor
of the KL. Counts, not texts, are redrawn, so a thousand draws are a few array operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.answer_divergence import count_divergence, smoothing
from interp_jax.studies.thought_anchors.intervals import keyed_generator

SIMILARITY_THRESHOLD = 0.8
"""Cosine below which a replacement counts as a different sentence."""


@dataclass(frozen=True)
class RolloutPool:
    """Rollouts of one index. All fields have length n.

    Attributes:
        answers: normalised answers; the empty string where there is none.
        correct: whether each answer is right.
        cosines: float, similarity of S_i with the replacement T_i; NaN where one of them has no
            embedding (such a rollout is neither similar nor dissimilar). None: not measured.
        replacements: texts of T_i. None: not kept.
    """

    answers: Sequence[str]
    correct: Sequence[bool]
    cosines: Sequence[float] | None = None
    replacements: Sequence[str] | None = None

    def __post_init__(self) -> None:
        n = len(self.answers)
        for name in ("correct", "cosines", "replacements"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise UserError(
                    found=f"{len(value)} entries of {name} beside {n} answers",
                    expected="one entry per rollout",
                    do="give fields of equal length",
                )


@dataclass(frozen=True)
class ImportanceConfig:
    """Choices of the estimators.

    Attributes:
        smoothing: key of `answer_divergence.SMOOTHINGS`.
        threshold: cosine below which a replacement is dissimilar.
        unanswered: `drop` leaves rollouts without an answer out of everything (as released);
            `outcome` counts "no answer" as one more, wrong, outcome.
        shared_vocabulary: count over the answers of all sentences instead of the two compared.
        none_is_outcome: as released, answers that read "None" count as an outcome in the
            resampling and forced KL (and nowhere else).
        absolute: absolute values of the accuracy metrics.
        draws: bootstrap and null draws; 0 leaves intervals NaN.
        confidence: two-sided.
        seed: of the draws.
    """

    smoothing: str = "jeffreys"
    threshold: float = SIMILARITY_THRESHOLD
    unanswered: Literal["drop", "outcome"] = "drop"
    shared_vocabulary: bool = False
    none_is_outcome: bool = False
    absolute: bool = False
    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A value, its bootstrap interval and what chance gives.

    Attributes:
        value: point estimate.
        low, high: percentile interval (Wilson for proportions).
        null_mean: mean of the value when the joined pools are split at random.
        null_high: the `confidence` quantile of that null's absolute value.
        p_value: share of null draws at least as large in absolute value (never 0).
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    null_mean: float = float("nan")
    null_high: float = float("nan")
    p_value: float = float("nan")


@dataclass(frozen=True)
class CodedPool:
    """The kept rollouts of a pool, answers as numbers below `size`; all arrays `[kept]`.

    `measured` says whether similarities were measured at all.
    """

    total: int
    size: int
    answer: np.ndarray
    correct: np.ndarray
    dissimilar: np.ndarray
    similar: np.ndarray
    measured: bool
    replacements: tuple[str, ...]

    @property
    def kept(self) -> int:
        """Rollouts that count."""
        return len(self.answer)


def code_pools(
    pools: Mapping[int, RolloutPool], config: ImportanceConfig, *, keep_none: bool = False
) -> dict[int, CodedPool]:
    """Numbers the answers of all pools and leaves out what `config.unanswered` says.

    `keep_none` keeps answers that read "None", which the released KL counts as an outcome.
    """
    by_correctness = smoothing(config.smoothing).outcomes == "correctness"
    labels = sorted({answer for pool in pools.values() for answer in pool.answers})
    numbers = {label: number for number, label in enumerate(labels)}
    missing = {""} if keep_none else {"", "none"}
    coded = {}
    for index, pool in pools.items():
        keep = [
            place
            for place, answer in enumerate(pool.answers)
            if config.unanswered == "outcome" or answer.strip().lower() not in missing
        ]
        correct = np.asarray([bool(pool.correct[k]) for k in keep], bool)
        answer = np.asarray([numbers[pool.answers[k]] for k in keep], np.int64)
        cosine = np.full(len(keep), np.nan)
        if pool.cosines is not None:
            cosine = np.asarray([pool.cosines[k] for k in keep], np.float64)
        coded[index] = CodedPool(
            total=len(pool.answers),
            size=2 if by_correctness else max(len(labels), 1),
            answer=correct.astype(np.int64) if by_correctness else answer,
            correct=correct,
            dissimilar=cosine < config.threshold,
            similar=cosine >= config.threshold,
            measured=pool.cosines is not None,
            replacements=tuple(pool.replacements[k] for k in keep) if pool.replacements else (),
        )
    return coded


def compare(
    kind: str,
    index: int,
    here: CodedPool,
    there: CodedPool,
    config: ImportanceConfig,
    sides: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Estimate, Estimate]:
    """Accuracy difference and KL of one side of `here` against `there`.

    Args:
        kind: names the draws; "counterfactual" also selects its sign, acc(side) - acc(there),
            where the others have acc(there) - acc(here).
        index: of the sentence; keys the draws.
        here, there: the pools at the index and at the next.
        config: choices.
        sides: masks `[here.kept]` of the rollouts compared and of those that join `there` in
            the KL's second argument; by default all and none.

    Returns:
        Estimates of the accuracy difference and of the KL in nats.
    """
    if sides is None:
        sides = np.ones(here.kept, bool), np.zeros(here.kept, bool)
    ours = np.stack([_cells(here, mask) for mask in sides])
    theirs = _cells(there, np.ones(there.kept, bool))
    sign = 1.0 if kind == "counterfactual" else -1.0
    how = smoothing(config.smoothing)
    seen = (ours.sum((0, 2)) + theirs.sum(1)) > 0
    if config.shared_vocabulary or how.outcomes == "correctness":
        seen = np.ones_like(seen)

    def measure(own: np.ndarray, like: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, ...]:
        gap = sign * (_accuracy(own) - _accuracy(other)) + 0.0
        kl = count_divergence(own.sum(-1)[..., seen], (like + other).sum(-1)[..., seen], how)
        return (np.abs(gap) if config.absolute else gap), kl

    boot = null = (np.zeros(0), np.zeros(0))
    if config.draws:
        rng = keyed_generator(config.seed, kind, index)
        drawn = _redraw(rng, ours, config.draws)
        boot = measure(drawn[:, 0], drawn[:, 1], _redraw(rng, theirs, config.draws))
        # A draw that has no rollout on the compared side says nothing about it.
        some = drawn[:, 0].sum((-2, -1)) > 0
        boot = tuple(values[some] for values in boot)
        null = measure(*_deal(rng, ours, theirs, config.draws))
    points = measure(ours[0], ours[1], theirs)
    accuracy, kl = (
        _estimate(*values, config.confidence) for values in zip(points, boot, null, strict=True)
    )
    return accuracy, kl


def _cells(pool: CodedPool, mask: np.ndarray) -> np.ndarray:
    cells = np.zeros((pool.size, 2), np.int64)
    np.add.at(cells, (pool.answer[mask], pool.correct[mask].astype(np.int64)), 1)
    return cells


def _accuracy(cells: np.ndarray) -> np.ndarray:
    totals = cells.sum((-2, -1))
    return cells[..., 1].sum(-1) / np.maximum(totals, 1)


def _redraw(rng: np.random.Generator, cells: np.ndarray, draws: int) -> np.ndarray:
    total = int(cells.sum())
    return rng.multinomial(total, cells.ravel() / total, size=draws).reshape(draws, *cells.shape)


def _deal(
    rng: np.random.Generator, ours: np.ndarray, theirs: np.ndarray, draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rollouts of both pools dealt at random to the three sides, whose sizes stay."""
    pool = (ours.sum(0) + theirs).ravel()
    own = rng.multivariate_hypergeometric(pool, int(ours[0].sum()), size=draws, method="marginals")
    rest = pool[None] - own
    like, size = np.zeros_like(own), int(ours[1].sum())
    if size:
        # Draw by draw, since what is left to deal differs.
        like = np.stack([rng.multivariate_hypergeometric(row, size) for row in rest])
    shape = (draws, *theirs.shape)
    return own.reshape(shape), like.reshape(shape), (rest - like).reshape(shape)


def _estimate(point: np.ndarray, boot: np.ndarray, null: np.ndarray, confidence: float) -> Estimate:
    value = float(point)
    if not boot.size:
        return Estimate(value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(boot, [tail, 1 - tail])
    size = np.abs(null)
    # Ties at the observed value count as at least as large, despite rounding.
    reached = int(np.count_nonzero(size >= abs(value) - 1e-12))
    return Estimate(
        value,
        float(low),
        float(high),
        float(null.mean()),
        float(np.quantile(size, confidence)),
        (1 + reached) / (1 + len(null)),
    )
