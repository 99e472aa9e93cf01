"""Labels by rules: needs no judge, no network and no time, and gives the same every time.

A sentence's tag is the first of an ordered list of questions that it answers with yes: is it the
final answer, does it set up the task, does it test, doubt, plan, recall, conclude, compute. The
order says which meaning wins where a sentence shows two ("Wait, let me verify" is a check).

How they were made: from the meaning of the tags alone. The rules for tags were fixed before they
were run on a labelled trace, and were not changed after; of the rules for links (`linking`) the
default was chosen after. `agreement` says how well they do; see
`tests/studies/thought_anchors/labels/test_released_agreement.py` for two released traces. They
are a cheap first look, in English, at mathematical reasoning; a judge reads better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interp_jax.studies.thought_anchors.labels import cues
from interp_jax.studies.thought_anchors.labels.labels import Labels
from interp_jax.studies.thought_anchors.labels.linking import link_sentences

RULES_VERSION = "rules-2"

_OPENING = 3  # sentences at the start that may set up the task
_ENDING = 0.9  # share of the trace after which "the answer is" is final
_OVERLAP = 0.6  # share of a sentence's words that stand in the question, for a restatement
_WORD = re.compile(r"[a-z]{3,}|\d+")
_COMMON = frozenset(
    "the and that this are for with was has have from its but not can let you all any so is".split()
)


def label_with_rules(
    question: str, sentences: Sequence[str], *, links: str = "previous"
) -> Labels:
    """Tags and dependencies by rules.

    Args:
        question: the task's text; may be empty.
        sentences: [S] texts; none gives empty labels.
        links: key of `linking.LINK_RULES`.

    Raises:
        UserError: another rule for links.
    """
    asked = _words(question)
    count = len(sentences)
    tags = tuple((_tag(text, index, count, asked),) for index, text in enumerate(sentences))
    version = f"{RULES_VERSION}, links {links}"
    return Labels(tags, link_sentences(sentences, links), "rules", version)


def _tag(sentence: str, index: int, count: int, asked: frozenset[str]) -> str:
    text = sentence.lower().replace("\u2019", "'")
    operation = cues.OPERATION.search(text) is not None
    relation = len(cues.RELATION.findall(text))
    computes = operation or relation > 0
    doubts = cues.DOUBT.search(text) is not None

    if cues.FINAL.search(text):
        return "final_answer_emission"
    if cues.THE_ANSWER.search(text) and not doubts and index >= _ENDING * (count - 1):
        return "final_answer_emission"
    if index == 0 and not operation:
        return "problem_setup"
    if index < _OPENING and not computes and _sets_up(text, asked):
        return "problem_setup"
    if cues.CHECKING.search(text):
        return "self_checking"
    if doubts:
        return "uncertainty_management"
    if cues.HELD.search(text) and not operation:
        return "self_checking"
    if cues.TASK.search(text) and not computes:
        return "problem_setup"
    if cues.RECALL.search(text):
        return "fact_retrieval"
    if cues.PLAN.search(text) and not computes:
        return "plan_generation"
    if text.endswith("?"):
        return "uncertainty_management"
    # A conclusion that works something out on the way is a computation.
    if cues.CONCLUDE.search(text) and not operation and relation < 2:
        return "result_consolidation"
    if computes or cues.WORKING.search(text):
        return "active_computation"
    if cues.HEDGE.search(text):
        return "uncertainty_management"
    if _mostly_figures(text):
        return "active_computation"
    return "fact_retrieval"


def _sets_up(text: str, asked: frozenset[str]) -> bool:
    own = _words(text)
    overlap = len(own & asked) / len(own) if own else 0.0
    return (
        overlap >= _OVERLAP
        or cues.TASK.search(text) is not None
        or cues.GOAL.search(text) is not None
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower())) - _COMMON


def _mostly_figures(text: str) -> bool:
    """More digits than letters: a list of values, a column of a long division."""
    return sum(map(str.isdigit, text)) > sum(map(str.isalpha, text))
