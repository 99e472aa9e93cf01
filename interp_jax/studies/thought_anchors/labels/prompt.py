"""What a judge is asked: labels of a whole trace in one request, or a sentence in a few words."""

from __future__ import annotations

from collections.abc import Sequence

from interp_jax.studies.thought_anchors.labels.taxonomy import TAGS, UNKNOWN

LABEL_VERSION = "labels-1"
SUMMARY_VERSION = "summary-1"
SUMMARY_WORDS = 5

_TASK = """\
You are an expert in how people and language models reason about mathematics. Below is a problem \
and one reasoning about it, cut into numbered sentences. For every sentence, say what it does \
(one or more tags) and which earlier sentences it builds on directly. Judge each sentence in its \
context. Be conservative: give a second tag or a dependency only where you are sure of it.

Tags:
{tags}

Dependencies of a sentence are the numbers of the earlier sentences whose results, facts, plans \
or doubts it uses directly. Look nearby and far back: a late sentence may use a value from the \
start. Do not link a sentence to another only because they stand side by side. Taken together \
the links should lead from the start of the reasoning to its final answer, so that nearly every \
sentence lies on some way there; a sentence has an empty list only if it truly builds on nothing.

Answer with one JSON object and nothing else. Its keys are the sentences' numbers, from "0" to \
"{last}", none left out. Each value is an object with two lists of strings: "function_tags" and \
"depends_on". For example, for two sentences:
{{"0": {{"function_tags": ["problem_setup"], "depends_on": []}}, \
"1": {{"function_tags": ["plan_generation"], "depends_on": ["0"]}}}}

Problem:
{question}

Reasoning:
{sentences}"""

_SUMMARY = """\
Say in at most {words} words what this sentence of a mathematical reasoning does. Name the \
quantities or ideas it is about. Write nothing but those words, without a full stop.

Sentence: {sentence}"""


def label_messages(question: str, sentences: Sequence[str]) -> list[dict[str, str]]:
    """The request for tags and dependencies of a whole trace."""
    tags = "\n".join(f"- {tag.name}: {tag.meaning}" for tag in (*TAGS, UNKNOWN))
    numbered = "\n\n".join(f"Sentence {i}:\n{text}" for i, text in enumerate(sentences))
    text = _TASK.format(
        tags=tags, last=len(sentences) - 1, question=question, sentences=numbered
    )
    return [{"role": "user", "content": text}]


def summary_messages(sentence: str) -> list[dict[str, str]]:
    """The request for a sentence's summary."""
    return [
        {"role": "user", "content": _SUMMARY.format(words=SUMMARY_WORDS, sentence=sentence)}
    ]
