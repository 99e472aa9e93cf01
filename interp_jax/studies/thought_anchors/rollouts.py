"""Rollouts: for every sentence, continuations of the trace cut before it.

Those of sentence i are the condition "S_i absent" (arXiv 2506.19143, resampling): the model
writes its own i-th sentence and goes on. Prompt and trace are run once; every rollout continues
a slice of that one cache, cut at the token where its sentence begins. All rollouts of all
sentences wait in one queue, and each is in the journal as soon as its batch hands it over.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.prefixes import at_cut
from interp_jax.generation.prompts import Prompt
from interp_jax.generation.requests import Request, Stats
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.base_trace import sampler, trace_tokens
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.text.sentences import split_sentences

_SESSION = "session/"


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
        by_sentence: n rollouts for each sentence, in the order of their numbers.
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


def make_rollouts(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    journal: Journal, writer: MetricWriter,
) -> Rollouts:
    """Makes what the journal lacks of n rollouts per sentence, and reads all of them.

    Raises:
        UserError: prompt, trace and budget are longer than the network's context.
    """
    wanted = [
        (index, number)
        for index in range(len(trace.sentences))
        for number in range(config.rollouts)
    ]
    todo = [pair for pair in wanted if _id(*pair) not in journal]
    remade = _begun_before(journal, len(todo))
    if remade:
        print(
            f"Going on after {len(wanted) - len(todo)} of {len(wanted)} rollouts; at most "
            f"{remade} that were under way are made again (a batch is {config.batch_size})."
        )
    engine = sampler(lm, config)
    made, began = 0, time.monotonic()
    if todo:
        sessions = sum(name.startswith(_SESSION) for name in journal.done)
        journal.append(
            f"{_SESSION}{sessions}", {"batch": config.batch_size, "done": len(wanted) - len(todo)}
        )
        made = _sample(lm, engine, trace, todo, len(wanted), config, journal, writer)
    seconds = time.monotonic() - began
    records = {name: record for name, record in journal.records() if not name.startswith(_SESSION)}
    reader = Reader(lm, problem, trace)
    by_sentence = {
        index: tuple(
            reader(index, records[_id(index, number)]) for number in range(config.rollouts)
        )
        for index in range(len(trace.sentences))
    }
    return Rollouts(by_sentence, made, seconds, remade, engine.stats)


def _sample(lm, engine, trace, todo, total, config, journal, writer) -> int:
    """Samples what is to do; returns the number of tokens."""
    whole = Prompt(trace.ids, trace.roles)
    context = lm.network.config.max_context
    if len(whole.ids) >= context:
        raise UserError(
            found=f"a prompt and trace of {len(whole.ids)} tokens",
            expected=f"fewer than {context}, the context of the network",
            do="take a shorter problem or trace",
        )
    prefix = lm.prefix(whole)
    key, requests = root_key(config.seed), []
    for item, (index, number) in enumerate(todo):
        tokens, own_roles, cut = at_cut(prefix, int(trace.spans[index, 0]))
        requests.append(
            Request(tokens, fold(key, "rollout", index, number),
                    min(config.max_new_tokens, context - cut - 1), own_roles, cut, item)
        )
    made = unfinished = 0
    done = total - len(todo)
    with Progress(total, "rollouts", unit="rollouts", start=done,
                  log_every=config.log_every) as bar:
        for count, sample in enumerate(engine.run(requests, prefix), start=1):
            record = {"tokens": sample.tokens.tolist(), "finish": sample.finish}
            journal.append(_id(*todo[sample.item]), record)
            made += len(sample.tokens)
            unfinished += sample.finish != "stop"
            bar.update(1, unfinished=f"{unfinished / count:.0%}")
            if count % config.batch_size == 0 or count == len(todo):
                values = {"rollouts/tokens": made, "rollouts/unfinished_share": unfinished / count}
                if engine.stats.busy_while_waiting is not None:
                    values["rollouts/busy_rows_while_waiting"] = engine.stats.busy_while_waiting
                writer.scalars(done + count, values)
    return made


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


def _begun_before(journal: Journal, todo: int) -> int:
    """How many rollouts an earlier run may have begun and not finished."""
    sessions = [record for name, record in journal.records() if name.startswith(_SESSION)]
    return min(sessions[-1]["batch"], todo) if sessions else 0
