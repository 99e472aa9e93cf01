"""What latents are explained and scored on: a latent's texts, divided, and how a judge sees them.

Detection shows texts as they are; half of them are examples of the latent, over all strengths, and
in the other half it is silent. Fuzzing shows texts with some tokens marked, each text twice: with
the marks on the tokens where the latent is active, and with as many on tokens where it is silent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


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
    """What a latent is explained and scored on; explaining and scoring share no document.

    Attributes:
        explain: strongest first. positive: active. negative: silent.
    """

    explain: tuple[Text, ...]
    positive: tuple[Text, ...]
    negative: tuple[Text, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A text that a judge decides on.

    Attributes:
        text: it. fits: whether a judge that is right names it.
        marks: bool [W], tokens that the judge sees marked.
    """

    text: Text
    fits: bool
    marks: np.ndarray


def gather(
    shown: Sequence[Text], silent: Sequence[Text] | None, *, explain: int, score: int, seed: int
) -> Material | None:
    """Divides a latent's examples; None where there are too few documents for all parts.

    Args:
        shown: examples of the latent, in any order; of several from one document one is used.
        silent: texts on which it is silent, likewise; None where none are wanted.
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
    others: dict[int, Text] = {}
    for text in silent or ():
        if text.document not in used:
            others.setdefault(text.document, text)
    rest = list(others.values())
    rest = [rest[place] for place in chance.permutation(len(rest))[: len(second)]]
    if not first or not second or (silent is not None and not rest):
        return None
    return Material(tuple(first), tuple(second), tuple(rest))


def detection_cases(material: Material, at_once: int, seed: Sequence[int]) -> list[list[Case]]:
    """Active and silent texts, mixed, nothing marked in them; a list for each question.

    Args:
        material: of a latent. at_once: texts in one question. seed: of the mixing.
    """
    cases = [
        Case(text, text.active, np.zeros(len(text.tokens), bool))
        for text in (*material.positive, *material.negative)
    ]
    return _questions(cases, at_once, np.random.default_rng(seed))


def fuzzing_cases(material: Material, at_once: int, seed: Sequence[int]) -> list[list[Case]]:
    """Each active text with its marks and with as many wrong ones; a list for each question.

    The wrong ones are drawn among the tokens where the latent is silent. A text with fewer of
    these than active tokens is left out. No question shows a text both ways, which would make it
    a comparison: what is right in the first round of questions is wrong in the second one.

    Args:
        material: of a latent. at_once: texts in one question. seed: of marks and mixing.
    """
    chance = np.random.default_rng(seed)
    pairs = []
    for text in material.positive:
        active = text.activations > 0
        silent = np.flatnonzero(~active)
        if active.sum() <= len(silent):
            wrong = np.zeros_like(active)
            wrong[chance.choice(silent, active.sum(), replace=False)] = True
            pairs.append((Case(text, True, active), Case(text, False, wrong)))
    turned = chance.permutation(len(pairs)) % 2
    rounds = [
        [pair[turn] for pair, turn in zip(pairs, turns, strict=True)]
        for turns in (turned, 1 - turned)
    ]
    return [part for cases in rounds for part in _questions(cases, at_once, chance)]


def _questions(
    cases: Sequence[Case], at_once: int, chance: np.random.Generator
) -> list[list[Case]]:
    order = chance.permutation(len(cases))
    return [
        [cases[place] for place in order[start : start + at_once]]
        for start in range(0, len(order), at_once)
    ]
