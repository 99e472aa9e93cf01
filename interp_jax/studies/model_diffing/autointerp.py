"""Explanations of latents by a judge, and how well they tell where the latents fire.

A judge explains a latent from some of its examples. Given that explanation alone it then tells,
of texts that the explanation was not made from, in which of them the latent is active (detection
scoring). Half of these texts are examples of the latent, over all strengths; the other half are
texts on which it is silent. Chance is a balanced accuracy of 1/2, whatever the explanation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.autointerp_prompts import (
    DETECT_VERSION,
    EXPLAIN_VERSION,
    detect_messages,
    explain_messages,
    marked,
)
from interp_jax.studies.model_diffing.bootstrap import Interval, Resamples, divide
from interp_jax.text.judges.json_reply import find_json_object
from interp_jax.text.judges.judge import Judge, Question

_EXPLAIN_TOKENS, _DETECT_TOKENS = 120, 120


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text.

    Attributes:
        tokens: int [W], ids. activations: float [W], of the latent; zeros where it is silent.
        document: number of its document. band: of strength, 0 the strongest; -1 for a text on
            which the latent is silent.
    """

    tokens: np.ndarray
    activations: np.ndarray
    document: int
    band: int

    @property
    def active(self) -> bool:
        """Whether the latent is active somewhere in it."""
        return bool(np.any(self.activations > 0))


@dataclasses.dataclass(frozen=True)
class Material:
    """What a latent is explained and scored on; the two share no document.

    Attributes:
        explain: strongest first. positive: active. negative: silent.
    """

    explain: tuple[Text, ...]
    positive: tuple[Text, ...]
    negative: tuple[Text, ...]


@dataclasses.dataclass(frozen=True)
class Score:
    """How well one latent's explanation predicts its activity.

    Attributes:
        latent: number. explanation: by the judge.
        hits, positives: of answered texts on which it is active, how many were told.
        rejections, negatives: of answered texts on which it is silent, how many were not.
        unanswered: texts of replies that could not be read; they count for nothing else.
        by_band: band -> (hits, positives).
        judge: model as it names itself. versions: of the two prompts.
    """

    latent: int
    explanation: str
    hits: int
    positives: int
    rejections: int
    negatives: int
    unanswered: int
    by_band: Mapping[int, tuple[int, int]]
    judge: str
    versions: tuple[str, str] = (EXPLAIN_VERSION, DETECT_VERSION)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares right among active and among silent texts; NaN without either."""
        shares = divide(
            np.asarray([self.hits, self.rejections]), np.asarray([self.positives, self.negatives])
        )
        return float(shares.mean())


def gather(
    shown: Sequence[Text], silent: Sequence[Text], *, explain: int, score: int, seed: int
) -> Material | None:
    """Divides a latent's examples; None where there are too few documents for both parts.

    Args:
        shown: examples of the latent, in any order; of several from one document one is used.
        silent: texts on which it is silent.
        explain: most examples to explain from. score: most active and most silent texts to score.
        seed: of the division.
    """
    strongest: dict[int, Text] = {}
    for text in sorted(shown, key=lambda t: -float(np.max(t.activations))):
        strongest.setdefault(text.document, text)
    texts = list(strongest.values())
    chance = np.random.default_rng(seed)
    # Each band is divided, so that both parts hold strong and weak activations.
    first, second = [], []
    for band in sorted({text.band for text in texts}):
        own = [text for text in texts if text.band == band]
        own = [own[place] for place in chance.permutation(len(own))]
        cut = (len(own) + 1) // 2
        first += own[:cut]
        second += own[cut:]
    first = sorted(first, key=lambda t: -float(np.max(t.activations)))[:explain]
    second = [second[place] for place in chance.permutation(len(second))[:score]]
    used = {text.document for text in (*first, *second)}
    rest = [text for text in silent if text.document not in used]
    rest = [rest[place] for place in chance.permutation(len(rest))[: len(second)]]
    if not first or not second or not rest:
        return None
    return Material(tuple(first), tuple(second), tuple(rest))


def explain_and_score(
    judge: Judge,
    latents: Mapping[int, Material],
    decode: Callable[[np.ndarray], list[str]],
    *,
    at_once: int = 5,
    seed: int = 0,
) -> list[Score]:
    """Asks for explanations of some latents, then for detections, all at once each.

    Args:
        judge: logs every prompt and reply with its version.
        latents: number -> material.
        decode: ids -> the text of each token.
        at_once: texts in one question; active and silent ones are mixed.
        seed: of the mixing.

    Raises:
        UserError: as the judge does, or no material at all.
    """
    if not latents:
        raise UserError(
            found="no latent with enough examples", expected="at least one",
            do="collect examples over more tokens, or choose latents that fire more often",
        )
    asked = [
        Question(
            tuple(explain_messages([_marked(t, decode) for t in latents[j].explain])),
            max_tokens=_EXPLAIN_TOKENS, purpose="explain", prompt_version=EXPLAIN_VERSION,
        )
        for j in latents
    ]
    replies = judge.ask_many(asked)
    explanations = {j: _sentence(r.text) for j, r in zip(latents, replies, strict=True)}
    questions, batches = [], []
    for j, material in latents.items():
        texts = [*material.positive, *material.negative]
        order = np.random.default_rng([seed, j]).permutation(len(texts))
        for start in range(0, len(order), at_once):
            part = [texts[place] for place in order[start : start + at_once]]
            words = ["".join(decode(text.tokens)) for text in part]
            questions.append(Question(
                tuple(detect_messages(explanations[j], words)), max_tokens=_DETECT_TOKENS,
                purpose="detect", prompt_version=DETECT_VERSION,
            ))
            batches.append((j, part))
    answers = judge.ask_many(questions)
    told: dict[int, list[tuple[Text, bool | None]]] = {j: [] for j in latents}
    for (j, part), reply in zip(batches, answers, strict=True):
        named = read_detections(reply.text, len(part))
        told[j] += [(t, None if named is None else n in named) for n, t in enumerate(part)]
    return [
        _score(j, explanations[j], told[j], reply.model)
        for j, reply in zip(latents, replies, strict=True)
    ]


def read_detections(text: str, count: int) -> set[int] | None:
    """The texts that a reply names, from 0; None for a reply that cannot be read.

    Numbers may be written as texts; one that no piece has makes the reply unreadable.
    """
    answer = (find_json_object(text) or {}).get("active")
    if not isinstance(answer, list):
        return None
    named = set()
    for each in answer:
        if isinstance(each, bool) or not isinstance(each, (int, str)):
            return None
        if not str(each).strip().isdecimal() or not 1 <= int(each) <= count:
            return None
        named.add(int(each) - 1)
    return named


def _score(latent: int, explanation: str, told, judge: str) -> Score:
    known = [(text, yes) for text, yes in told if yes is not None]
    positive = [(text.band, yes) for text, yes in known if text.active]
    negative = [yes for text, yes in known if not text.active]
    bands = {
        band: (sum(yes for b, yes in positive if b == band), sum(b == band for b, _ in positive))
        for band in sorted({b for b, _ in positive})
    }
    return Score(
        latent=latent, explanation=explanation, hits=sum(yes for _, yes in positive),
        positives=len(positive), rejections=sum(not yes for yes in negative),
        negatives=len(negative), unanswered=len(told) - len(known), by_band=bands, judge=judge,
    )


def mean_accuracy(scores: Sequence[Score], *, seed: int = 0) -> Interval | None:
    """Mean balanced accuracy, with an interval over latents; None where none was answered."""
    known = np.asarray([s.balanced_accuracy for s in scores], np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    return Resamples(len(known), seed=seed).mean(known, np.ones(len(known)))


def _marked(text: Text, decode) -> str:
    return marked(decode(text.tokens), (text.activations > 0).tolist())


def _sentence(text: str) -> str:
    return " ".join(text.rpartition("</think>")[2].split())
