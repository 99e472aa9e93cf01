"""Rollouts: for every sentence, continuations of the trace cut before it.

Those of sentence i are the condition "S_i absent" (arXiv 2506.19143, resampling): the model
writes its own i-th sentence and goes on, from the token where that sentence begins (`sampling`).
All rollouts of all sentences wait in one queue; with adaptive numbers, those of one round.
"""

from __future__ import annotations

import dataclasses
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
    """

    by_sentence: Mapping[int, Sequence[Rollout]]
    tokens: int
    seconds: float
    remade: int
    stats: Stats

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
    reader, key = Reader(lm, problem, trace), root_key(config.seed)
    known: dict[str, Rollout] = {}
    total = config.rollouts * len(trace.sentences)
    while True:
        wanted, by_sentence = _state(reader, config, journal, known)
        lacking = {
            _id(index, number): Continuation(
                int(trace.spans[index, 0]), fold(key, "rollout", index, number),
                config.max_new_tokens,
            )
            for index, count in wanted.items()
            for number in range(count)
            if _id(index, number) not in journal
        }
        if not lacking:
            return Rollouts(
                by_sentence, made.tokens, made.seconds, made.remade, made.engine.stats
            )
        made.sample(lacking, total)


def read_rollouts(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    journal: Journal,
) -> Rollouts | None:
    """The rollouts in a journal, or None while some that are wanted are not there."""
    wanted, by_sentence = _state(Reader(lm, problem, trace), config, journal, {})
    if any(len(by_sentence[index]) < count for index, count in wanted.items()):
        return None
    return Rollouts(by_sentence, 0, 0.0, 0, Stats())


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
    """Reads a journaled continuation of sentence i."""

    lm: LanguageModel
    problem: Problem
    trace: Trace

    def __call__(self, index: int, record: Mapping) -> Rollout:
        """The rollout in a record `{"tokens", "finish"}`."""
        finished = record["finish"] == "stop"
        kept = self.trace.tokens[: self.trace.ranges[index, 0]]
        own = trace_tokens(record["tokens"], record["finish"])
        whole = self.lm.tokenizer.decode([*kept, *own])
        # Decoded together: by itself a continuation can lose its first space.
        text = whole[self.trace.cuts[index] :]
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
