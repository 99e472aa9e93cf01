"""Labels and summaries by a judge, with every part of its answer checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.labels.labels import (
    Dropped,
    Labels,
    read_index,
    read_links,
)
from interp_jax.studies.thought_anchors.labels.prompt import (
    LABEL_VERSION,
    SUMMARY_VERSION,
    SUMMARY_WORDS,
    label_messages,
    summary_messages,
)
from interp_jax.studies.thought_anchors.labels.taxonomy import UNKNOWN, find_tag
from interp_jax.text.judges.json_reply import find_json_object
from interp_jax.text.judges.judge import Judge, Question

_TOKENS_FIRST, _TOKENS_EACH, _TOKENS_MOST = 256, 64, 16_384
_SUMMARY_TOKENS = 20


def label_with_judge(
    judge: Judge, question: str, sentences: Sequence[str], *, max_tokens: int | None = None
) -> Labels:
    """Tags and dependencies of a whole trace, asked in one request.

    Args:
        sentences: [S] texts.
        max_tokens: of the answer; None allows 256 and 64 for each sentence, up to 16,384.

    Raises:
        UserError: no sentences, an answer without a single readable entry, or as `judge` does.
    """
    if not sentences:
        raise UserError(found="no sentences", expected="a trace", do="label another trace")
    if max_tokens is None:
        max_tokens = min(_TOKENS_FIRST + _TOKENS_EACH * len(sentences), _TOKENS_MOST)
    reply = judge.ask(
        label_messages(question, sentences), json_object=True, max_tokens=max_tokens,
        purpose="labels", prompt_version=LABEL_VERSION,
    )
    answer = find_json_object(reply.text) or {}
    labels = parse_labels(answer, len(sentences), by=reply.model, version=LABEL_VERSION)
    if labels.dropped.missing == len(sentences):
        raise UserError(
            found=f"an answer of {reply.model} without an entry for any sentence: "
            f"{reply.text!r:.120}",
            expected="a JSON object by sentence number",
            do="ask another model, or use the rules",
        )
    return labels


def parse_labels(answer: Mapping[str, Any], count: int, *, by: str, version: str) -> Labels:
    """Labels from a judge's JSON object; whatever is wrong in it is dropped and counted.

    Sentences that are missing, or whose tags are all outside the taxonomy, are `unknown`. An
    object in which the entries stand one level lower is read too.

    Args:
        answer: sentence number -> `{"function_tags": [...], "depends_on": [...]}`.
        count: S, of sentences.
    """
    if len(answer) == 1:
        (name, inner), = answer.items()
        if read_index(name) is None and isinstance(inner, Mapping):
            answer = inner
    dropped: Counter[str] = Counter()
    entries: dict[int, Mapping[str, Any]] = {}
    for name, entry in answer.items():
        index = read_index(name)
        if index is None or not 0 <= index < count or index in entries:
            dropped["extra"] += 1
        elif isinstance(entry, Mapping):
            entries[index] = entry
    tags, links = [], []
    for index in range(count):
        entry = entries.get(index)
        dropped["missing"] += entry is None
        entry = entry or {}
        tags.append(_read_tags(entry.get("function_tags"), dropped))
        links.append(read_links(entry.get("depends_on"), index, count, dropped))
    return Labels(tuple(tags), tuple(links), by, version, Dropped(**dropped))


def summaries(judge: Judge, sentences: Sequence[str]) -> list[str]:
    """At most five words for each sentence, in order; equal sentences are asked once.

    Raises:
        UserError: as `judge` does.
    """
    questions = [
        Question(
            tuple(summary_messages(text)), max_tokens=_SUMMARY_TOKENS, purpose="summary",
            prompt_version=SUMMARY_VERSION,
        )
        for text in sentences
    ]
    return [_few_words(reply.text) for reply in judge.ask_many(questions)]


def _few_words(text: str) -> str:
    text = text.rpartition("</think>")[2]
    words = text.strip().strip('"').split()[:SUMMARY_WORDS]
    return " ".join(words).rstrip(".,;:")


def _read_tags(found: Any, dropped: Counter[str]) -> tuple[str, ...]:
    given = [found] if isinstance(found, str) else found
    given = given if isinstance(given, (list, tuple)) else []
    names = [find_tag(each) if isinstance(each, str) else None for each in given]
    dropped["unknown_tags"] += names.count(None)
    return tuple(dict.fromkeys(name for name in names if name)) or (UNKNOWN.name,)
