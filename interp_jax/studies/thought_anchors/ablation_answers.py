"""Accuracy of answers with heads ablated (arXiv 2506.19143; spec 8.5).

The model answers problems with nothing ablated, without the chosen heads, and without as many
random heads of the same layers (`head_ablation`, before the output projection). All three are rows
of one batch. Random heads are not one set but many: the answers go round them, so that no single
draw decides. Sample n of a problem has the same draws under all conditions.

An answer that does not end within its budget, or that cannot be read, is not a right one: a model
that no longer comes to an answer has lost accuracy.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from interp_jax.generation.engine import Engine
from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.requests import Request
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.interventions.run import require_touched
from interp_jax.models import roles
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.asking import ask
from interp_jax.studies.thought_anchors.base_trace import trace_tokens
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.head_ablation import Heads, ablate_rows, layers_of
from interp_jax.studies.thought_anchors.intervals import newcombe_interval, wilson_interval
from interp_jax.studies.thought_anchors.problems import (
    GENERATOR,
    Problem,
    load_problem,
    read_problems,
)
from interp_jax.studies.thought_anchors.rollout_pools import Estimate
from interp_jax.studies.thought_anchors.sampling import rows_for

CONDITIONS = ("none", "receiver", "random")


@dataclass(frozen=True)
class AblationAnswers:
    """Answers to P problems, N for each under every condition.

    Attributes:
        samples: N.
        right, unanswered: int [3, P], in the order of `CONDITIONS`; unanswered ones count as wrong.
        tokens, seconds: sampled in THIS run, and how long that took.
    """

    samples: int
    right: np.ndarray
    unanswered: np.ndarray
    tokens: int = 0
    seconds: float = 0.0

    @property
    def problems(self) -> int:
        """P."""
        return self.right.shape[1]

    def accuracy(self, condition: str, confidence: float = 0.95) -> Estimate:
        """Share of right answers with its Wilson interval.

        It holds for these problems, not for others like them: the answers are counted together,
        and answers to problems of unequal difficulty spread less than a binomial.
        """
        right, total = self._count(condition)
        low, high = wilson_interval(right, total, confidence)
        return Estimate(right / total, float(low), float(high))

    def change(self, condition: str, against: str, confidence: float = 0.95) -> Estimate:
        """Accuracy under one condition minus another, with Newcombe's interval.

        The interval takes the two as independent. They share their draws, which as a rule makes
        the difference steadier than that.
        """
        (right, total), (other, others) = self._count(condition), self._count(against)
        low, high = newcombe_interval(right, total, other, others, confidence)
        return Estimate(right / total - other / others, float(low), float(high))

    def unanswered_share(self, condition: str) -> float:
        """Share of answers that did not end or could not be read."""
        own = self.unanswered[CONDITIONS.index(condition)]
        return float(own.sum()) / (self.samples * self.problems)

    def _count(self, condition: str) -> tuple[int, int]:
        own = self.right[CONDITIONS.index(condition)]
        return int(own.sum()), self.samples * self.problems


def problems_to_answer(config: ThoughtAnchorsConfig, own: Problem | None) -> list[Problem]:
    """Those that `config.ablation_problems` names, else the run's own and what follows it.

    Problems whose answer is not known are left out, and those that ask the same as an earlier one.

    Raises:
        UserError: as their source does.
    """
    spec, first = config.ablation_problems, 0
    if spec is None and config.problems is not None:
        spec, first = config.problems, config.index
    elif spec is None and own is not None and own.source.startswith(f"{GENERATOR}:"):
        spec = own.source
    if spec is None:
        found = [own] if own is not None and own.question.strip() else []
    elif spec.startswith(f"{GENERATOR}:"):
        head, _, start = spec.rpartition(":")
        if not start.isdecimal():
            load_problem(spec)  # says what is wrong with it
        found = [
            load_problem(f"{head}:{index}", rule=config.rule)
            for index in range(int(start), int(start) + config.ablation_count)
        ]
    else:
        found = read_problems(spec, rule=config.rule or "boxed")[first:]
    known: dict[str, Problem] = {}
    for one in found:
        if one.answer is not None or one.score is not None:
            known.setdefault(one.question, one)
    return list(known.values())[: config.ablation_count]


def make_answers(
    lm: LanguageModel, problems: Sequence[Problem], heads: Heads, controls: Sequence[Heads],
    config: ThoughtAnchorsConfig, journal: Journal,
) -> AblationAnswers:
    """Makes what the journal lacks, and reads all.

    Args:
        problems: with known answers, at least one.
        heads: the chosen ones.
        controls: R sets of random heads in the same layers.

    Raises:
        UserError: a question longer than the context, or an ablation that touched nothing.
    """
    wanted = _wanted(problems, heads, config.ablation_samples)
    todo = [name for name in wanted if name not in journal]
    began, tokens = time.monotonic(), 0
    if todo:
        sets = {name: _set_of(one, heads, controls) for name, one in wanted.items()}
        layers, count = layers_of(heads), lm.network.config.n_heads
        prompts = [ask(lm, p.question, config.instruction, config.opening) for p in problems]
        key = root_key(config.seed)
        requests = [
            Request(
                prompts[one.problem].ids, fold(key, "ablation", one.digest, one.number),
                config.max_new_tokens, prompts[one.problem].roles, item=item,
            )
            for item, one in enumerate(wanted[name] for name in todo)
        ]
        engine = Engine(
            lm.network, SamplingParams.make(config.temperature, config.top_p),
            stop_tokens=lm.tokenizer.special.stop, role=roles.REASONING, all_slots=True,
            batch_size=rows_for(len(wanted), config.batch_size),
            per_row=lambda items: ablate_rows(
                [sets[todo[item]] for item in items.tolist()], layers, count
            ),
        )
        with Progress(len(wanted), "head ablation", unit="answers", start=len(wanted) - len(todo),
                      log_every=config.log_every) as bar:
            for sample in engine.run(requests):
                name = todo[sample.item]
                touched = sample.tape["touched/ablate_heads"]
                if sets[name]:
                    require_touched({"touched/ablate_heads": touched})
                journal.append(name, {
                    "tokens": sample.tokens.tolist(), "finish": sample.finish,
                    "touched": int(np.sum(touched)),
                })
                tokens += len(sample.tokens)
                bar.update(1)
    read = read_answers(lm, problems, heads, config, journal)
    return replace(read, tokens=tokens, seconds=time.monotonic() - began if todo else 0.0)


def read_answers(
    lm: LanguageModel, problems: Sequence[Problem], heads: Heads, config: ThoughtAnchorsConfig,
    journal: Journal,
) -> AblationAnswers | None:
    """The answers in a journal, or None while some that are wanted are not there."""
    records = dict(journal.records())
    wanted = _wanted(problems, heads, config.ablation_samples)
    if any(name not in records for name in wanted):
        return None
    right = np.zeros((len(CONDITIONS), len(problems)), np.int64)
    unanswered = np.zeros_like(right)
    for name, one in wanted.items():
        record, problem = records[name], problems[one.problem]
        text = lm.tokenizer.decode(trace_tokens(record["tokens"], record["finish"]))
        answered = record["finish"] == "stop" and bool(problem.read(text))
        place = CONDITIONS.index(one.condition), one.problem
        right[place] += answered and problem.check(text)
        unanswered[place] += not answered
    return AblationAnswers(config.ablation_samples, right, unanswered)


@dataclass(frozen=True)
class _Answer:
    """One answer to be made: under a condition, to a problem (by place and question), by number."""

    condition: str
    problem: int
    digest: str
    number: int


def _wanted(problems: Sequence[Problem], heads: Heads, samples: int) -> dict[str, _Answer]:
    """By id. An id says which heads and which question, so other settings find what they share."""
    chosen = hashlib.sha256(repr(sorted(heads)).encode()).hexdigest()[:12]
    wanted = {}
    for place, problem in enumerate(problems):
        digest = hashlib.sha256(problem.question.encode()).hexdigest()[:12]
        for number in range(samples):
            for condition in CONDITIONS:
                one = _Answer(condition, place, digest, number)
                # With no head ablated it does not matter which ones are chosen elsewhere.
                own = "" if condition == "none" else f"{chosen}/"
                wanted[f"{condition}/{own}{digest}/{number}"] = one
    return wanted


def _set_of(one: _Answer, heads: Heads, controls: Sequence[Heads]) -> Heads:
    if one.condition == "none":
        return []
    if one.condition == "receiver":
        return heads
    return controls[(int(one.digest, 16) + one.number) % len(controls)]
