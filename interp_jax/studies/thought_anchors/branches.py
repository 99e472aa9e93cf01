"""Two measures of Thought Branches (arXiv 2510.27484): CF++ and resilience.

A sentence that is taken out often comes back in other words, and then a rollout without it is no
rollout without its content. CF++ compares the rollouts in which NO later sentence says it again
with those in which it stands. Resilience asks how often it must be taken out until it stays out.

Sign: accuracy and log-odds here are present minus absent, POSITIVE when the content helps, as for
resampling importance (and unlike counterfactual accuracy, whose released sign is the other one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from interp_jax.generation.language_model import LanguageModel
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.metrics import MetricWriter
from interp_jax.studies.thought_anchors.asking import Trace, own_offsets
from interp_jax.studies.thought_anchors.base_trace import trace_tokens
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.intervals import wilson_interval
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.rollout_pools import (
    Estimate,
    ImportanceConfig,
    RolloutPool,
    code_pools,
    compare,
)
from interp_jax.studies.thought_anchors.rollouts import Reader
from interp_jax.studies.thought_anchors.sampling import Continuation, TraceSampler, samples_in
from interp_jax.text.sentences import split_sentences, token_ranges

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Absence:
    """CF++ of one sentence.

    Attributes:
        chunk_idx: the sentence.
        absent, present: answered rollouts on either side.
        absent_fraction: of the answered rollouts at the sentence, those in which its content
            never comes back.
        accuracy: present minus absent, positive when the content helps.
        kl: D(absent || present) in nats.
        log_odds: ln odds of a right answer, present minus absent, with one half added to every
            count (Haldane and Anscombe) and a Wald interval.
    """

    chunk_idx: int
    absent: int
    present: int
    absent_fraction: Estimate
    accuracy: Estimate
    kl: Estimate
    log_odds: Estimate


def content_similarity(
    sentences: Sequence[str], rollouts: Mapping[int, Sequence[str]], encode: Encode
) -> dict[int, np.ndarray]:
    """How near any sentence of a rollout comes to the sentence that it goes without.

    Args:
        sentences: of the trace.
        rollouts: continuations by index.
        encode: texts to unit vectors float32 `[n, D]`.

    Returns:
        By index, float `[n]`: the largest cosine of a rollout's sentences with S_i; -1 for a
        rollout without a sentence.
    """
    pieces = {
        index: [[s.text for s in split_sentences(text)] for text in own]
        for index, own in rollouts.items()
        if index < len(sentences)
    }
    every = dict.fromkeys(sentences)
    every |= dict.fromkeys(text for own in pieces.values() for one in own for text in one)
    vector = dict(zip(every, encode(list(every)), strict=True)) if every else {}
    found = {}
    for index, own in pieces.items():
        anchor = vector[sentences[index]]
        found[index] = np.asarray([
            max((float(np.dot(anchor, vector[text])) for text in one), default=-1.0) for one in own
        ])
    return found


def absences(
    pools: Mapping[int, RolloutPool], similarity: Mapping[int, np.ndarray], threshold: float,
    config: ImportanceConfig,
) -> list[Absence]:
    """CF++ of every sentence that has similarities.

    Args:
        pools: rollouts by index; those at the next index are the condition "present".
        similarity: as `content_similarity` gives it.
        threshold: cosine from which a sentence says the content again.
        config: choices of the estimators; its own threshold is not used.

    Returns:
        One record per sentence, in order. Without answered rollouts on a side its estimates
        are NaN.
    """
    choices = ImportanceConfig(**{**vars(config), "threshold": threshold})
    whole = {
        index: RolloutPool(pool.answers, pool.correct, list(similarity[index]))
        if index in similarity else RolloutPool(pool.answers, pool.correct)
        for index, pool in pools.items()
    }
    coded, records = code_pools(whole, choices), []
    nothing = Estimate(float("nan"))
    for index in sorted(similarity):
        here = coded[index]
        out = here.dissimilar
        after = min((k for k in coded if k > index and coded[k].kept), default=None)
        there = None if after is None else coded[after]
        accuracy = kl = odds = nothing
        if there is not None and out.any():
            sides = out, np.zeros_like(out)
            accuracy, kl = compare("content", index, here, there, choices, sides)
            odds = log_odds(
                (int(there.correct.sum()), there.kept),
                (int(here.correct[out].sum()), int(out.sum())), choices.confidence,
            )
        records.append(Absence(
            index, int(out.sum()), 0 if there is None else there.kept,
            _share(int(out.sum()), here.kept, choices.confidence), accuracy, kl, odds,
        ))
    return records


def log_odds(
    present: tuple[int, int], absent: tuple[int, int], confidence: float = 0.95
) -> Estimate:
    """Difference of the log-odds of two proportions (right, all), present minus absent."""
    cells = [(right + 0.5, total - right + 0.5) for right, total in (present, absent)]
    value = float(np.log(cells[0][0] / cells[0][1]) - np.log(cells[1][0] / cells[1][1]))
    error = float(np.sqrt(sum(1 / count for pair in cells for count in pair)))
    width = float(stats.norm.ppf(0.5 + confidence / 2)) * error
    return Estimate(value, value - width, value + width)


def _share(part: int, whole: int, confidence: float) -> Estimate:
    if not whole:
        return Estimate(float("nan"))
    low, high = wilson_interval(part, whole, confidence)
    return Estimate(part / whole, float(low), float(high))


@dataclass(frozen=True)
class Resilience:
    """How often a sentence had to be taken out until its content stayed out.

    Attributes:
        chunk_idx: the sentence.
        removals: of each chain, from 1 to the most rounds.
        stayed: whether the content stayed out after the last of them; a chain where it did not
            needs more removals than it has (censored).
        answered, correct: of the chains whose content stayed out: with an answer, and right.
    """

    chunk_idx: int
    removals: tuple[int, ...]
    stayed: tuple[bool, ...]
    answered: int
    correct: int

    @property
    def mean(self) -> float:
        """Mean removals over chains, a lower bound where some are censored."""
        return float(np.mean(self.removals))

    @property
    def stayed_fraction(self) -> float:
        """Share of chains in which the content stayed out in the end."""
        return float(np.mean(self.stayed))


def first_return(
    text: str, sentence: str, encode: Encode, threshold: float
) -> int | None:
    """Index of the first sentence of `text` that says `sentence` again, or None."""
    pieces = [one.text for one in split_sentences(text)]
    if not pieces:
        return None
    vectors = encode([sentence, *pieces])
    near = np.flatnonzero(vectors[1:] @ vectors[0] >= threshold)
    return int(near[0]) if near.size else None


def make_resilience(
    lm: LanguageModel, problem: Problem, trace: Trace, config: ThoughtAnchorsConfig,
    rollouts: Journal, journal: Journal, encode: Encode, writer: MetricWriter,
) -> list[Resilience]:
    """Follows rollouts of every sentence until its content stays out, or the rounds are over.

    A rollout is the first removal. Where the content comes back, the chain is cut before the
    sentence that brings it, and that sentence and the rest are written anew.

    Args:
        rollouts: journal of the rollouts; chain c of sentence i begins with rollout c.
        journal: of the rounds after the first; each record tells what its chain had kept.
        encode: texts to unit vectors.

    Raises:
        UserError: as `TraceSampler.sample` does.
    """
    made = TraceSampler(lm, trace, config, journal, writer, what="resilience")
    begun, key = samples_in(rollouts), root_key(config.seed)
    before = Reader(lm, problem, trace, config.rollout_prefix).prefixes
    chains = {
        (index, chain): _Chain.begin(begun[f"{index}/{chain}"])
        for index in range(len(trace.sentences))
        for chain in range(config.resilience_chains)
        if f"{index}/{chain}" in begun
    }
    for round_number in range(1, config.resilience_rounds):
        there = samples_in(journal)
        wanted, extra = {}, {}
        for (index, chain), state in chains.items():
            name = f"{index}/{chain}/{round_number}"
            if state.stayed:
                continue
            kept = there[name]["kept"] if name in there else state.before_return(
                lm, trace.sentences[index].text, encode, config.content_threshold
            )
            if kept is None:
                state.stayed = True
                continue
            state.tokens = state.tokens[:kept]
            extra[name] = {"kept": kept}
            wanted[name] = Continuation(
                before[index].cut, fold(key, "resilience", index, chain, round_number),
                # As long in all as a rollout, which feeds one token of the trace.
                max(config.max_new_tokens - kept + (kept > 0), 1),
                np.concatenate([before[index].own, state.tokens]),
            )
        made.sample(wanted, len(there) + len(wanted), extra=extra)
        there = samples_in(journal)
        for (index, chain), state in chains.items():
            if (record := there.get(f"{index}/{chain}/{round_number}")) is not None:
                state.go_on(record)
    return _measured(chains, lm, problem, trace, config, encode)


@dataclass
class _Chain:
    """One rollout under way: its tokens without the stop, how it ended, how often it was cut."""

    tokens: np.ndarray
    finish: str
    removals: int = 1
    stayed: bool = False

    @classmethod
    def begin(cls, record: Mapping) -> _Chain:
        return cls(trace_tokens(record["tokens"], record["finish"]), record["finish"])

    def go_on(self, record: Mapping) -> None:
        new = trace_tokens(record["tokens"], record["finish"])
        self.tokens = np.concatenate([self.tokens[: record["kept"]], new])
        self.finish, self.removals = record["finish"], self.removals + 1

    def before_return(
        self, lm: LanguageModel, sentence: str, encode: Encode, threshold: float
    ) -> int | None:
        """How many tokens stand before the sentence that brings the content back, or None."""
        text, offsets = own_offsets(self.tokens, lm.tokenizer)
        at = first_return(text, sentence, encode, threshold)
        if at is None:
            return None
        return int(token_ranges(split_sentences(text), text, offsets)[at, 0])


def _measured(chains, lm, problem, trace, config, encode) -> list[Resilience]:
    reader, found = Reader(lm, problem, trace, config.rollout_prefix), []
    for index, sentence in enumerate(trace.sentences):
        own = [state for (at, _), state in chains.items() if at == index]
        for state in own:
            state.stayed = state.stayed or state.before_return(
                lm, sentence.text, encode, config.content_threshold
            ) is None
        ends = [
            reader(index, {"tokens": [*state.tokens.tolist(), 0], "finish": "stop"})
            for state in own if state.stayed and state.finish == "stop"
        ]
        if own:
            found.append(Resilience(
                index, tuple(state.removals for state in own),
                tuple(state.stayed for state in own),
                sum(bool(end.answer) for end in ends), sum(end.correct for end in ends),
            ))
    return found
