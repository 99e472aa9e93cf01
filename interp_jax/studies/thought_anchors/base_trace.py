"""The base trace: the reasoning whose sentences are studied, sampled until one will do."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import numpy as np

from interp_jax.generation.engine import Engine
from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.prefixes import at_cut
from interp_jax.generation.prompts import Prompt
from interp_jax.generation.requests import Request, Sample
from interp_jax.generation.sampling_params import SamplingParams
from interp_jax.models import roles
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.runtime.keys import fold, root_key
from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.asking import Trace, make_trace
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.problems import Problem


def sampler(lm: LanguageModel, config: ThoughtAnchorsConfig, rows: int | None = None) -> Engine:
    """The engine that base traces and rollouts are made with; `rows` None for a whole batch."""
    params = SamplingParams.make(config.temperature, config.top_p)
    return Engine(
        lm.network, params, stop_tokens=lm.tokenizer.special.stop,
        batch_size=config.batch_size if rows is None else rows, role=roles.REASONING,
        all_slots=True,
    )


def trace_tokens(sample_tokens, finish: str) -> np.ndarray:
    """Sampled tokens without the stop token."""
    tokens = np.asarray(sample_tokens, np.int32)
    return tokens[:-1] if finish == "stop" else tokens


def find_base_trace(
    lm: LanguageModel, problem: Problem, prompt: Prompt, config: ThoughtAnchorsConfig,
    journal: Journal, *, make: bool = True,
) -> Trace | None:
    """The first try that ends by itself, has enough sentences, and answers as asked.

    Tries are numbered and each has its own key, so the choice does not depend on how many were
    made at once; every finished one is in the journal.

    Args:
        make: whether tries are made; without, None where the journal lacks the next one.

    Raises:
        UserError: none of `config.base_tries` will do; the message counts the reasons.
    """
    seen: dict[int, dict] = {int(name): record for name, record in journal.records()}
    reasons: collections.Counter[str] = collections.Counter()
    engine, at = sampler(lm, config), 0
    with Progress(config.base_tries, "base trace", unit="tries", start=len(seen),
                  log_every=config.log_every) as bar:
        while at < config.base_tries:
            if at not in seen and not make:
                return None
            if at not in seen:
                wave = range(at, min(at + config.batch_size, config.base_tries))
                todo = [number for number in wave if number not in seen]
                for sample in _tries(lm, engine, prompt, todo, config):
                    record = {"tokens": sample.tokens.tolist(), "finish": sample.finish}
                    journal.append(str(sample.item), record)
                    seen[sample.item] = record
                    bar.update(1)
            record = seen[at]
            trace = make_trace(
                prompt, trace_tokens(record["tokens"], record["finish"]), lm.tokenizer,
                record["finish"], at + 1,
            )
            reason = unfit(trace, problem, config)
            if reason is None:
                return trace
            reasons[reason] += 1
            at += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    raise UserError(
        found=f"no base trace of problem {problem.id} in {config.base_tries} tries ({listed})",
        expected=f"one of {config.min_sentences} to {config.max_sentences} sentences that ends "
        f"by itself" + ("" if config.base == "any" else f" and is {config.base}"),
        do="try another problem (--screen finds some), --base=any, more --max_new_tokens or "
        "fewer --min_sentences",
    )


def unfit(trace: Trace, problem: Problem, config: ThoughtAnchorsConfig) -> str | None:
    """Why a trace will not do, or None."""
    if config.must_end and trace.finish != "stop":
        return "unfinished"
    if len(trace.sentences) < config.min_sentences:
        return "too short"
    if len(trace.sentences) > config.max_sentences:
        return "too long"
    if (trace.ranges[:, 0] == trace.ranges[:, 1]).any():
        return "with a sentence that has no token of its own"
    if config.base != "any":
        if not problem.read(trace.text):
            return "without an answer"
        if problem.check(trace.text) != (config.base == "correct"):
            return "incorrect" if config.base == "correct" else "correct"
    return None


def _tries(
    lm: LanguageModel, engine: Engine, prompt: Prompt, numbers: list[int],
    config: ThoughtAnchorsConfig,
) -> Iterator[Sample]:
    """Samples of the prompt, which is run once for all of them."""
    prefix = lm.prefix(prompt)
    tokens, own_roles, cut = at_cut(prefix, len(prompt.ids))
    key = root_key(config.seed)
    requests = [
        Request(tokens, fold(key, "base trace", number), config.max_new_tokens, own_roles, cut,
                item=number)
        for number in numbers
    ]
    yield from engine.run(requests, prefix)
