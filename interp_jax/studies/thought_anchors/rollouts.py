"""Rollouts: for every sentence, continuations of the trace cut before it.

Those of sentence i are the condition "S_i absent" (arXiv 2506.19143, resampling): the model
writes its own i-th sentence and goes on, from the token where that sentence begins (`sampling`).
All rollouts of all sentences wait in one queue; with adaptive numbers, those of one round.
`rollout_prefix` has other ways to cut.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.requests import Stats
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.studies.thought_anchors.adaptive import StoppingRule
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.base_trace import trace_tokens
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.rollout_prefix import How, KeptPrefix, kept_prefix
from interp_jax.studies.thought_anchors.sampling import (
    Continuation,
    TraceSampler,
    samples_in,
)
from interp_jax.text.sentences import split_sentences


@dataclass(frozen=True)
class Rollout:
    """One continuation.

    Attributes:
        text: what was written after the cut, without a stop token.
        first: its first sentence, the replacement T_i; empty if nothing was written.
        tokens: how many were sampled.
        finished: whether it ended within its budget.
        answer: read from trace and continuation together, under one spelling; empty if there is
            none. What is unfinished has none: its last number is not its answer.
        correct: whether that is right; agreement with the base trace's answer where the problem
            has no known one.
    """

    text: str
    first: str
    tokens: int
    finished: bool
    answer: str
    correct: bool


@dataclass(frozen=True)
class Rollouts:
    """All rollouts of a trace.

    Attributes:
        by_sentence: rollouts of each sentence, in the order of their numbers.
        tokens, seconds: sampled in THIS run, and how long that took.
        remade: at most so many rollouts had been begun by an interrupted run and were made again.
        stats: what the engine did in this run.
        kept: by sentence, the text of the reasoning that its rollouts continue.
    """

    by_sentence: Mapping[int, Sequence[Rollout]]
    tokens: int
    seconds: float
    remade: int
    stats: Stats
    kept: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def all(self) -> list[Rollout]:
        """Of every sentence."""
        return [rollout for own in self.by_sentence.values() for rollout in own]

    @property
    def unfinished_share(self) -> float:
        """Share that ran into its budget."""
        return float(np.mean([not rollout.finished for rollout in self.all]))

    @property
    def unanswered_share(self) -> float:
        """Share without an answer, the unfinished ones included."""
        return float(np.mean([not rollout.answer for rollout in self.all]))

    def saved(self, config: ThoughtAnchorsConfig) -> str:
        """What stopping early saved, in a sentence."""
        sizes = [len(own) for own in self.by_sentence.values()]
        early = sum(size < config.rollouts for size in sizes)
        return (
            f"{early} of {len(sizes)} sentences stopped before {config.rollouts} rollouts, once "
            f"the 95 % interval of their accuracy was narrower than {config.adaptive_width:g}: "
            f"{sum(sizes)} of {config.rollouts * len(sizes)} were made, {min(sizes)} to "
            f"{max(sizes)} for each sentence."
        )


def make_rollouts(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    journal: Journal, writer: MetricWriter,
) -> Rollouts:
    """Makes what the journal lacks of the rollouts of every sentence, and reads all of them.

    There are `config.rollouts` of each, or fewer where `config.adaptive_width` lets a sentence
    stop (`adaptive`).

    Raises:
        UserError: prompt, trace and budget are longer than the network's context.
    """
    made = TraceSampler(lm, trace, config, journal, writer)
    reader = Reader(lm, problem, trace, config.rollout_prefix)
    rule, key = StoppingRule.of(config), root_key(config.seed)
    known: dict[str, Rollout] = {}
    total = config.rollouts * len(trace.sentences)
    while True:
        wanted, by_sentence = _state(reader, config, journal, known)
        lacking = [index for index, count in wanted.items() if len(by_sentence[index]) < count]
        if not lacking:
            return Rollouts(
                by_sentence, made.tokens, made.seconds, made.remade, made.stats, reader.texts
            )
        asked = {}
        for index, numbers in rule.round_of(wanted, lacking).items():
            kept = reader.prefixes[index]
            for number in numbers:
                asked[_id(index, number)] = Continuation(
                    kept.cut, fold(key, "rollout", index, number), config.max_new_tokens, kept.own
                )
        made.sample(asked, total)


def read_rollouts(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    journal: Journal,
) -> Rollouts | None:
    """The rollouts in a journal, or None while some that are wanted are not there."""
    reader = Reader(lm, problem, trace, config.rollout_prefix)
    wanted, by_sentence = _state(reader, config, journal, {})
    if any(len(by_sentence[index]) < count for index, count in wanted.items()):
        return None
    return Rollouts(by_sentence, 0, 0.0, 0, Stats(), reader.texts)


def _state(
    reader: Reader, config: ThoughtAnchorsConfig, journal: Journal, known: dict[str, Rollout]
) -> tuple[dict[int, int], dict[int, tuple[Rollout, ...]]]:
    """How many rollouts each sentence is to have, and those of them that are there, in order."""
    rule, records = StoppingRule.of(config), samples_in(journal)
    wanted, by_sentence = {}, {}
    for index in range(len(reader.trace.sentences)):
        own: list[Rollout] = []
        while (record := records.get(name := _id(index, len(own)))) is not None:
            if name not in known:
                known[name] = reader(index, record)
            own.append(known[name])
        wanted[index] = rule.wanted([r.correct if r.answer else None for r in own])
        by_sentence[index] = tuple(own[: wanted[index]])
    return wanted, by_sentence


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a journaled continuation of sentence i.

    Attributes:
        prefixes: by sentence, what its rollouts continue. texts: that as text.
    """

    lm: LanguageModel
    problem: Problem
    trace: Trace
    how: How = "trace"

    @functools.cached_property
    def prefixes(self) -> tuple[KeptPrefix, ...]:
        """See the class."""
        return tuple(
            kept_prefix(self.trace, self.lm.tokenizer, index, self.how)
            for index in range(len(self.trace.sentences))
        )

    @property
    def texts(self) -> dict[int, str]:
        """See the class."""
        return {index: kept.text for index, kept in enumerate(self.prefixes)}

    def __call__(self, index: int, record: Mapping) -> Rollout:
        """The rollout in a record `{"tokens", "finish"}`."""
        finished = record["finish"] == "stop"
        prefix, own = self.prefixes[index], trace_tokens(record["tokens"], record["finish"])
        kept = [*self.trace.ids[len(self.trace.prompt.ids) : prefix.cut], *prefix.own]
        whole = self.lm.tokenizer.decode([*kept, *own])
        # Decoded together: by itself a continuation can lose its first space.
        text = whole[len(prefix.text) :]
        sentences = split_sentences(text)
        answer = self.problem.read(whole) if finished else ""
        return Rollout(
            text=text, first=sentences[0].text if sentences else "",
            tokens=len(record["tokens"]), finished=finished, answer=answer,
            correct=bool(answer) and is_right(self.problem, whole, self.trace),
        )


def is_right(problem: Problem, completion: str, trace: Trace) -> bool:
    """Whether the answer is the known one or, where none is known, the base trace's."""
    if problem.answer is None and problem.score is None:
        return problem.read(completion) == problem.read(trace.text)
    return problem.check(completion)


def _id(index: int, number: int) -> str:
    return f"{index}/{number}"
