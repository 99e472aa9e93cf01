r"""Forced answers: the thinking is closed at a boundary between sentences and the answer opened.

What the model answers when it may not think on (arXiv 2506.19143, forced-answer importance). A
boundary k keeps S_0 ... S_{k-1}: boundary i is the condition "S_i absent" and boundary i + 1 the
condition "S_i present", as with rollouts, so forced importance of S_i is accuracy at i + 1 minus
accuracy at i and the last sentence has one too.

The answer is what follows the lead-in, up to the end of its sentence or box, and not the first
box of the whole text, which may be one that the trace itself wrote. One that runs into its budget
before it is complete counts as none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.base_trace import trace_tokens
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.rollout_pools import RolloutPool
from interp_jax.studies.thought_anchors.rollouts import is_right
from interp_jax.studies.thought_anchors.sampling import Continuation, TraceSampler, samples_in
from interp_jax.text.answers import extract_boxes

BOX = r"\boxed{"
REFERENCE = "reference"
# The published lead-in; "answers is" is its own slip, kept so that rollouts compare.
NAMED_LEAD_INS = {REFERENCE: "\n</think>\n\nTherefore, the final answers is " + BOX}
LEAD_INS = {
    "boxed": "The final answer is " + BOX,
    "last_number": "The answer is",
    "stated": "The answer is",
    "last_line": "The answer is",
    "exact_line": "The answer is",
    "yes_no": "The answer is",
    "choice": "The answer is (",
}
"""How an answer is opened, by the rule that reads it; a blank line goes before it, and the end of
the thinking where the trace is inside a `<think>`."""

_WHOLE_LINE = ("last_line", "exact_line")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_THINK, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class ForcedAnswer:
    """One forced answer.

    Attributes:
        text: what was written after the lead-in.
        answer: under one spelling; empty if there is none.
        correct: whether it is right, as for a rollout.
    """

    text: str
    answer: str
    correct: bool


@dataclass(frozen=True)
class ForcedAnswers:
    """Forced answers of a trace.

    Attributes:
        by_boundary: those with S_0 ... S_{k-1} kept, k from 0 to N.
        tokens, seconds: sampled in THIS run, and how long that took.
        remade: as for rollouts.
    """

    by_boundary: Mapping[int, Sequence[ForcedAnswer]]
    tokens: int = 0
    seconds: float = 0.0
    remade: int = 0

    @property
    def unanswered_share(self) -> float:
        """Share without an answer, the incomplete ones included."""
        return float(np.mean([not one.answer for own in self.by_boundary.values() for one in own]))

    def pools(self) -> dict[int, RolloutPool]:
        """As `importance.sentence_importance` takes them."""
        return {
            boundary: RolloutPool([one.answer for one in own], [one.correct for one in own])
            for boundary, own in self.by_boundary.items()
        }


def lead_in(kept: str, rule: str, chosen: str | None = None) -> str:
    """What is put after `kept` (prompt and trace as text) to open the answer.

    Args:
        kept: ends with a whole sentence, or with the prompt.
        rule: key of `ANSWER_RULES`.
        chosen: a name of `NAMED_LEAD_INS` or any text, taken as it is; None for the rule's own.
    """
    if chosen is not None:
        return NAMED_LEAD_INS.get(chosen, chosen)
    thinking = kept.rfind(_THINK) > kept.rfind(_CLOSE)
    blank = "\n" * max(0, 2 - (len(kept) - len(kept.rstrip("\n"))))
    closed = f"\n{_CLOSE}\n\n" if thinking else blank
    return closed + LEAD_INS[rule]


def forced_statement(continuation: str, opened: str, rule: str, *, ended: bool) -> str:
    r"""The text that a rule reads a forced answer from; empty while the answer is incomplete.

    Args:
        continuation: what was written after the lead-in.
        opened: the lead-in; one that ends with `\boxed{` is answered inside the box.
        rule: key of `ANSWER_RULES`.
        ended: whether the continuation ended by itself.
    """
    if opened.endswith(BOX):
        content = extract_boxes(BOX + continuation)[0]
        if not ended and len(content) == len(continuation):
            return ""  # no closing brace
        if rule in ("yes_no", *_WHOLE_LINE):
            return content.strip() if rule in _WHOLE_LINE else f"The answer is {content.strip()}"
        return f"{BOX}{content}}}"
    said = continuation.lstrip()
    line, newline, _ = said.partition("\n")
    end = _SENTENCE_END.search(line)
    # A stop at the very end of what was written may be a decimal point.
    whole = end is not None and (end.end() < len(said) or ended)
    if not (whole or newline or ended):
        return ""
    said = (line[: end.start()] if whole else line).strip()
    if not said:
        return ""
    return said if rule in _WHOLE_LINE else f"The answer is {said}"


@dataclass(frozen=True)
class ForcedReader:
    """Reads a journaled continuation at a boundary.

    `compat` reads as the published code does: the first box of trace and continuation, unclosed
    ones included (the prompt, whose instruction may hold an empty box, is left out).
    """

    lm: LanguageModel
    problem: Problem
    trace: Trace
    compat: bool = False

    def __call__(self, boundary: int, opened: str, record: Mapping) -> ForcedAnswer:
        """The answer in a record `{"tokens", "finish"}`."""
        ended = record["finish"] == "stop"
        own = trace_tokens(record["tokens"], record["finish"])
        text = self.lm.tokenizer.decode(own)
        if self.compat:
            kept = self.lm.tokenizer.decode(self.trace.tokens[: _kept(self, boundary)])
            statement = f"{BOX}{extract_boxes(kept + opened + text)[0]}}}"
        else:
            statement = forced_statement(text, opened, self.problem.rule, ended=ended)
        answer = self.problem.read(statement) if statement else ""
        right = bool(answer) and is_right(self.problem, statement, self.trace)
        return ForcedAnswer(text, answer, right)

    def opened(self, boundary: int, chosen: str | None) -> str:
        """The lead-in at a boundary."""
        kept = self.lm.tokenizer.decode(self.trace.tokens[: _kept(self, boundary)])
        return lead_in(_prompt_text(self) + kept, self.problem.rule, chosen)


def make_forced(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    journal: Journal, writer: MetricWriter,
) -> ForcedAnswers:
    """Makes what the journal lacks of `config.forced_rollouts` per boundary, and reads all.

    Raises:
        UserError: trace, lead-in and a new token are longer than the network's context.
    """
    made = TraceSampler(lm, trace, config, journal, writer, what="forced")
    reader = ForcedReader(lm, problem, trace, config.reference_compat)
    key, wanted = root_key(config.seed), {}
    for boundary in _boundaries(trace):
        opened = reader.opened(boundary, config.forced_lead_in)
        # `</think>` may be a control token, and the lead-in is nobody's data.
        own = lm.tokenizer.encode(opened, allow_special=True).ids
        cut = len(trace.prompt.ids) + _kept(reader, boundary)
        for number in range(config.forced_rollouts):
            wanted[_id(boundary, number)] = Continuation(
                cut, fold(key, "forced", boundary, number), config.forced_max_new_tokens, own
            )
    made.sample(wanted, len(wanted))
    read = read_forced(lm, problem, trace, config, journal)
    return ForcedAnswers(read.by_boundary, made.tokens, made.seconds, made.remade)


def read_forced(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    journal: Journal,
) -> ForcedAnswers | None:
    """The forced answers in a journal, or None while some that are wanted are not there."""
    records = samples_in(journal)
    reader = ForcedReader(lm, problem, trace, config.reference_compat)
    ids = {
        boundary: [_id(boundary, number) for number in range(config.forced_rollouts)]
        for boundary in _boundaries(trace)
    }
    if not config.forced_rollouts or any(
        name not in records for own in ids.values() for name in own
    ):
        return None
    opened = {b: reader.opened(b, config.forced_lead_in) for b in ids}
    return ForcedAnswers({
        b: tuple(reader(b, opened[b], records[name]) for name in own) for b, own in ids.items()
    })


def _boundaries(trace: Trace) -> range:
    return range(len(trace.sentences) + 1)


def _kept(reader: ForcedReader, boundary: int) -> int:
    """How many tokens of the trace stand before a boundary, without blank ones at its end."""
    if boundary == 0:
        return int(reader.trace.ranges[0, 0])
    count = int(reader.trace.ranges[boundary - 1, 1])
    first = int(reader.trace.ranges[boundary - 1, 0])
    while count > first + 1 and not reader.lm.tokenizer.decode(
        reader.trace.tokens[count - 1 : count]
    ).strip():
        count -= 1
    return count


def _prompt_text(reader: ForcedReader) -> str:
    prompt = reader.trace.prompt
    return prompt.text if prompt.text is not None else reader.lm.tokenizer.decode(prompt.ids)


def _id(boundary: int, number: int) -> str:
    return f"{boundary}/{number}"
