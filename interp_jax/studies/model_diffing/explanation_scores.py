"""An explanation of a latent with its scores, and the mean of scores over latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp_jax.studies.model_diffing.bootstrap import Interval, Resamples, divide
from interp_jax.studies.model_diffing.scoring_texts import Case


@dataclasses.dataclass(frozen=True)
class Score:
    """How well an explanation predicts its latent's activity, by one scorer.

    Attributes:
        hits, positives: of answered texts that the judge should name, how many it did.
        rejections, negatives: of answered texts that it should not name, how many it did not.
        unanswered: texts of replies that could not be read; they count for nothing else.
        left_out: texts that could not be asked about.
        by_band: band -> (hits, positives).
        version: of the prompt.
    """

    hits: int
    positives: int
    rejections: int
    negatives: int
    unanswered: int
    left_out: int
    by_band: Mapping[int, tuple[int, int]]
    version: str

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares right among texts to name and among the others; NaN without either."""
        shares = divide(
            np.asarray([self.hits, self.rejections]), np.asarray([self.positives, self.negatives])
        )
        return float(shares.mean())


@dataclasses.dataclass(frozen=True)
class Explained:
    """A latent's explanation with its scores.

    Attributes:
        latent: number. explanation: by the judge.
        judge: model as it names itself. version: of the prompt for explanations.
        scores: by scorer.
    """

    latent: int
    explanation: str
    judge: str
    version: str
    scores: Mapping[str, Score]


def score_of(told: Sequence[tuple[Case, bool | None]], *, left_out: int, version: str) -> Score:
    """Counts a judge's decisions.

    Args:
        told: cases, and whether the judge named them; None without an answer.
        left_out, version: as in `Score`.
    """
    known = [(case, yes) for case, yes in told if yes is not None]
    positive = [(case.text.band, yes) for case, yes in known if case.fits]
    negative = [yes for case, yes in known if not case.fits]
    bands = {
        band: (sum(yes for b, yes in positive if b == band), sum(b == band for b, _ in positive))
        for band in sorted({b for b, _ in positive})
    }
    return Score(
        hits=sum(yes for _, yes in positive), positives=len(positive),
        rejections=sum(not yes for yes in negative), negatives=len(negative),
        unanswered=len(told) - len(known), left_out=left_out, by_band=bands, version=version,
    )


def mean_accuracy(scores: Sequence[Score], *, seed: int = 0) -> Interval | None:
    """Mean balanced accuracy, with an interval over latents; None where none was answered."""
    known = np.asarray([s.balanced_accuracy for s in scores], np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    return Resamples(len(known), seed=seed).mean(known, np.ones(len(known)))


def explained_of(record: Mapping[str, Any]) -> Explained:
    """An explanation with its scores as it lies in the file."""
    scores = {}
    for scorer, fields in record["scores"].items():
        bands = {int(band): tuple(of) for band, of in fields["by_band"].items()}
        scores[scorer] = Score(**fields | {"by_band": bands})
    return Explained(**dict(record) | {"scores": scores})
