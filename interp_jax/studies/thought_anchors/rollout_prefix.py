"""What a rollout of a sentence continues (arXiv 2506.19143; spec 3.3).

    trace       the trace's own tokens before the sentence, a slice of its cache: every character
                stands where the model put it
    joined      S_0 ... S_{i-1} joined by single spaces: what the published code means to do;
                paragraphs are lost, and the text is tokenised anew
    reference   what it does: S_0 ... S_i are joined and EVERY occurrence of the text of S_i is
                deleted. The two differ where S_i repeats, or is part of, earlier text: then that
                is missing too, and the holes it leaves stay

The last two share only the prompt's cache, so each rollout runs its own prefix: use them to
compare with released rollouts, not to save time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp_jax.models.tokenizer import Tokenizer
from interp_jax.studies.thought_anchors.asking import Trace

How = Literal["trace", "joined", "reference"]


@dataclass(frozen=True)
class KeptPrefix:
    """What stands before a rollout.

    Attributes:
        cut: how many tokens of prompt and trace are kept as they are.
        own: int32 [N]; tokens after those; none where the trace's own are kept.
        text: what of the reasoning is kept.
    """

    cut: int
    own: np.ndarray
    text: str


def kept_prefix(trace: Trace, tokenizer: Tokenizer, index: int, how: How = "trace") -> KeptPrefix:
    """What a rollout of sentence `index` continues."""
    if how == "trace":
        none = np.zeros(0, np.int32)
        return KeptPrefix(int(trace.spans[index, 0]), none, trace.text[: trace.cuts[index]])
    sentences = [sentence.text for sentence in trace.sentences]
    text = (joined_prefix if how == "joined" else reference_prefix)(sentences, index)
    # What is before the first sentence (a `<think>`, white space) stays as it is.
    before, first = trace.text[: trace.cuts[0]], trace.sentences[0].start
    if text:
        text = trace.text[trace.cuts[0] : first] + text
    own = np.asarray(tokenizer.encode(text).ids if text else [], np.int32)
    return KeptPrefix(int(trace.spans[0, 0]), own, before + text)


def joined_prefix(sentences: Sequence[str], index: int) -> str:
    """The sentences before `index`, joined by single spaces."""
    return " ".join(sentences[:index])


def reference_prefix(sentences: Sequence[str], index: int) -> str:
    """The sentences up to `index` joined, then without any occurrence of the text of that one."""
    return " ".join(sentences[: index + 1]).replace(sentences[index], "").strip()
