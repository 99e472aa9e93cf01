"""Explanations of latents by a judge, and how well they tell where the latents fire.

A judge explains a latent from some of its examples. Given that explanation alone it is then asked
about texts that the explanation was not made from: in which of them the latent is active
(detection), or in which the marked tokens are those where it is (fuzzing). One explanation serves
all scorers. A judge that says the same of every text has a balanced accuracy of 1/2, whatever the
explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.autointerp_prompts import (
    DETECT_VERSION,
    EXPLAIN_VERSION,
    FUZZ_VERSION,
    detect_messages,
    explain_messages,
    fuzz_messages,
    marked,
)
from interp_jax.studies.model_diffing.explanation_scores import Explained, score_of
from interp_jax.studies.model_diffing.scoring_texts import (
    Case,
    Material,
    detection_cases,
    fuzzing_cases,
)
from interp_jax.text.judges.json_reply import find_json_object
from interp_jax.text.judges.judge import Judge, Question

_EXPLAIN_TOKENS, _SCORE_TOKENS = 120, 120


class Scorer(NamedTuple):
    """A way to ask whether an explanation is right.

    Attributes:
        cases: (material, texts in a question, seed) -> the cases of each question.
        messages: (explanation, texts) -> the request. key: of the reply's list of numbers.
        version: of the prompt.
    """

    cases: Callable[[Material, int, Sequence[int]], list[list[Case]]]
    messages: Callable[[str, Sequence[str]], list[dict[str, str]]]
    key: str
    version: str


SCORERS: Mapping[str, Scorer] = {
    "detection": Scorer(detection_cases, detect_messages, "active", DETECT_VERSION),
    "fuzzing": Scorer(fuzzing_cases, fuzz_messages, "right", FUZZ_VERSION),
}


def explain_and_score(
    judge: Judge,
    latents: Mapping[int, Material],
    decode: Callable[[np.ndarray], list[str]],
    *,
    scorers: Sequence[str] = tuple(SCORERS),
    at_once: int = 5,
    seed: int = 0,
) -> list[Explained]:
    """Asks for explanations of some latents, then about their texts, all at once each.

    Args:
        judge: logs every prompt and reply with its version.
        latents: number -> material.
        decode: ids -> the text of each token.
        scorers: of `SCORERS`.
        at_once: texts in one question; texts to name and others are mixed.
        seed: of the mixing and of wrong marks.

    Raises:
        UserError: as the judge does, no material at all, or a scorer that there is not.
    """
    require_scorers(scorers)
    if not latents:
        raise UserError(
            found="no latent with enough examples", expected="at least one",
            do="collect examples over more tokens, or choose latents that fire more often",
        )
    asked = [
        Question(
            tuple(explain_messages([_words(t.tokens, t.activations > 0, decode)
                                    for t in material.explain])),
            max_tokens=_EXPLAIN_TOKENS, purpose="explain", prompt_version=EXPLAIN_VERSION,
        )
        for material in latents.values()
    ]  # fmt: skip
    replies = dict(zip(latents, judge.ask_many(asked), strict=True))
    explanations = {j: _sentence(reply.text) for j, reply in replies.items()}
    questions, parts = [], []
    for j, material in latents.items():
        for name in scorers:
            scorer = SCORERS[name]
            for part in scorer.cases(material, at_once, [seed, j]):
                words = [_words(case.text.tokens, case.marks, decode) for case in part]
                questions.append(Question(
                    tuple(scorer.messages(explanations[j], words)), max_tokens=_SCORE_TOKENS,
                    purpose=name, prompt_version=scorer.version,
                ))
                parts.append((j, name, part))
    told: dict[tuple[int, str], list[tuple[Case, bool | None]]] = {
        (j, name): [] for j in latents for name in scorers
    }
    for (j, name, part), reply in zip(parts, judge.ask_many(questions), strict=True):
        named = read_numbers(reply.text, SCORERS[name].key, len(part))
        told[j, name] += [(c, None if named is None else n in named) for n, c in enumerate(part)]
    return [
        Explained(
            latent=j, explanation=explanations[j], judge=replies[j].model,
            version=EXPLAIN_VERSION, scores={
                name: score_of(
                    told[j, name], left_out=_left_out(material, told[j, name]),
                    version=SCORERS[name].version,
                )
                for name in scorers
            },
        )
        for j, material in latents.items()
    ]  # fmt: skip


def require_scorers(scorers: Sequence[str]) -> None:
    """Refuses what are not some of `SCORERS`, each once.

    Raises:
        UserError: an unknown one, one named twice, or none.
    """
    if not scorers or len(set(scorers)) < len(scorers) or not set(scorers) <= set(SCORERS):
        raise UserError(
            found=f"scorers {', '.join(scorers) or 'none'}",
            expected=f"some of {', '.join(SCORERS)}, each once", do="name the scorers to use",
        )


def read_numbers(text: str, key: str, count: int) -> set[int] | None:
    """The texts that a reply names, from 0; None for a reply that cannot be read.

    Numbers may be written as texts; one that no piece has makes the reply unreadable.

    Args:
        text: the reply. key: of the list in its JSON object. count: texts that were asked about.
    """
    answer = (find_json_object(text) or {}).get(key)
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


def _left_out(material: Material, told: Sequence[tuple[Case, bool | None]]) -> int:
    """Texts of the latent that no question shows; each is of a document of its own."""
    asked = {case.text.document for case, _ in told}
    return sum(text.document not in asked for text in material.positive)


def _words(tokens: np.ndarray, marks: np.ndarray, decode) -> str:
    return marked(decode(tokens), marks.tolist())


def _sentence(text: str) -> str:
    return " ".join(text.rpartition("</think>")[2].split())
