"""What a run will need, before any of it runs (`--plan_only`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.collecting import empty_tape
from interp_jax.generation.decode import decode_chunk
from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.requests import bucket
from interp_jax.generation.slots import empty_slots
from interp_jax.models import roles
from interp_jax.models.cache import Prefix
from interp_jax.models.decoder import Decoder, as_prefix
from interp_jax.runtime.compilation import Plan, plan
from interp_jax.studies.thought_anchors.ablation_answers import CONDITIONS, problems_to_answer
from interp_jax.studies.thought_anchors.ablation_stage import require_heads
from interp_jax.studies.thought_anchors.asking import Trace, ask, chosen_problem, given_trace
from interp_jax.studies.thought_anchors.base_trace import sampler
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.forced import lead_in
from interp_jax.studies.thought_anchors.head_ablation import (
    CONTROLS,
    ROWS_AT_ONCE,
    ablate_rows,
    ablation_effects,
)
from interp_jax.studies.thought_anchors.problems import Problem
from interp_jax.studies.thought_anchors.sampling import rows_for
from interp_jax.studies.thought_anchors.suppression import SOURCES_AT_ONCE
from interp_jax.studies.thought_anchors.suppression_plan import plan_suffixes
from interp_jax.studies.thought_anchors.suppression_suffix import (
    compact,
    edited_streams,
    suffix_batch,
    unedited_trace,
)
from interp_jax.studies.thought_anchors.trace_batch import require_fits, trace_batch


def plan_run(lm: LanguageModel, config: ThoughtAnchorsConfig) -> dict[str, Plan]:
    """Compiles the big programs of a run for the longest base trace that may come out of it.

    Of decoding the compiler counts one step, of a batch as large as it gets. Adaptive rounds and
    rounds of resilience that ask for few use smaller batches of the same program.

    Returns:
        Name of the program to what it needs. Always `suppression` (a batch of sources, of the
        longest group), and `rollouts` unless the trace is given; where they are asked for also
        `forced` and `resilience` (decoding), `masking` (a batch of sources), and `ablation` (the
        heads and their controls on the trace) with `ablation answers` (decoding).
    """
    config = config.resolved()
    require_heads(config, lm.network.config)
    plans: dict[str, Plan] = {}
    problem = None
    if config.trace is not None:
        trace = given_trace(lm, config)
        problem = None if config.prompt is None else chosen_problem(config)
    else:
        problem = chosen_problem(config)
        trace = _longest(lm, problem, config)
        plans |= _rollouts(lm, trace, problem, config)
    at_once = min(SOURCES_AT_ONCE, config.batch_size)
    plans["suppression"] = _sources(lm, trace, at_once, deleting=False)
    if config.masking_graph:
        plans["masking"] = _sources(lm, trace, at_once, deleting=True)
    if config.ablate_heads:
        plans |= _ablation(lm, trace, problem, config)
    return plans


def _longest(lm: LanguageModel, problem: Problem, config: ThoughtAnchorsConfig) -> Trace:
    prompt = ask(lm, problem.question, config.instruction, config.opening)
    longest = np.zeros(config.max_new_tokens, np.int32)
    edges = np.linspace(0, len(longest), config.max_sentences + 1).astype(np.int32)
    return Trace(prompt, longest, "", (), np.stack([edges[:-1], edges[1:]], axis=1))


def _rollouts(
    lm: LanguageModel, trace: Trace, problem: Problem, config: ThoughtAnchorsConfig
) -> dict[str, Plan]:
    """Decoding of everything that continues the trace."""
    length, new, most = len(trace.ids), config.max_new_tokens, config.max_sentences
    # A joined prefix is the row's own: as long as the trace, about.
    own = 1 if config.rollout_prefix == "trace" else new
    plan_of = lambda own, new, asked: _decoding(
        lm, config, rows_for(asked, config.batch_size), own, new, prefix=length
    )
    plans = {"rollouts": plan_of(own, new, config.rollouts * most)}
    if config.forced_rollouts:
        # The end of the thinking belongs to the longest lead-in.
        opened = lead_in("<think>", problem.rule, config.forced_lead_in)
        count = len(lm.tokenizer.encode(opened, allow_special=True).ids)
        asked = config.forced_rollouts * (most + 1)
        plans["forced"] = plan_of(count, config.forced_max_new_tokens, asked)
    if config.resilience_rounds > 1:
        # What a chain keeps and what it writes anew are together as long as a rollout.
        chains = min(config.resilience_chains, config.rollouts)
        plans["resilience"] = plan_of(own, new, chains * most)
    return plans


def _sources(lm: LanguageModel, trace: Trace, at_once: int, *, deleting: bool) -> Plan:
    """A batch of sources, which are hidden or deleted."""
    require_fits(len(trace.ids), lm.network.config)
    end = int(trace.spans[:, 1].max())
    cut = plan_suffixes(np.maximum(trace.spans[:, 0] - deleting, 0), end, at_once=at_once)
    network = jax.eval_shape(compact, lm.network)
    unedited = jax.eval_shape(lambda network: unedited_trace(network, trace, end, cut), network)
    row = (trace.ids[:end], trace.roles[:end])
    batch = suffix_batch([row] * cut.rows, cut.groups[0], len(trace.ids))
    none = np.zeros(cut.rows, np.int32)
    hidden = None if deleting else np.zeros((cut.rows, 1, 2), np.int32)
    return plan(edited_streams, network, batch, unedited, none, hidden, none if deleting else None)


def _ablation(
    lm: LanguageModel, trace: Trace, problem: Problem | None, config: ThoughtAnchorsConfig
) -> dict[str, Plan]:
    """Which layers will lose heads is not known yet: as many as there can be."""
    network = lm.network.config
    layers = tuple(range(1, min(config.ablate_heads, network.n_layers - 1) + 1))
    rows = min(ROWS_AT_ONCE, 1 + CONTROLS) + 1
    keep = ablate_rows([[]] * rows, layers, network.n_heads)
    batch = trace_batch(trace, network, rows)
    plans = {"ablation": plan(ablation_effects, keep(lm.network), batch, trace.spans)}
    problems = problems_to_answer(config, problem)
    if problems:
        longest = max(
            len(ask(lm, one.question, config.instruction, config.opening).ids) for one in problems
        )
        asked = len(CONDITIONS) * len(problems) * config.ablation_samples
        rows = rows_for(asked, config.batch_size)
        keep = ablate_rows([[]] * rows, layers, network.n_heads)
        plans["ablation answers"] = _decoding(
            lm, config, rows, longest, config.max_new_tokens, network=keep(lm.network)
        )
    return plans


def _decoding(
    lm: LanguageModel, config: ThoughtAnchorsConfig, rows: int, own: int, new: int, *,
    prefix: int | None = None, network: Decoder | None = None,
) -> Plan:
    """One batch of decoding.

    Args:
        own: tokens of a row before the new ones.
        prefix: tokens that all rows share, or None.
        network: None for the model's own.
    """
    engine = sampler(lm, config)
    network = lm.network if network is None else network
    budget = bucket(new)

    def slots(network) -> tuple[object, Prefix | None]:
        shared = None
        if prefix is not None:
            shared = as_prefix(network.empty_cache(1, bucket(prefix, 64)))
        tape = empty_tape(network, rows, budget, None)
        return empty_slots(network, rows, bucket(own + new), budget, prefix=shared, tape=tape)

    shapes = jax.eval_shape(slots, network)
    return plan(
        decode_chunk, network, shapes, engine.params, engine.stop_tokens,
        jnp.asarray(roles.REASONING, jnp.int8), jnp.int32(1), jnp.int32(1),
    )
