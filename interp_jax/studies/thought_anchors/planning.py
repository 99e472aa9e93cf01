"""What a run will need, before any of it runs (`--plan_only`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.generation.decode import decode_chunk
from interp_jax.generation.language_model import LanguageModel
from interp_jax.generation.requests import bucket
from interp_jax.generation.slots import empty_slots
from interp_jax.models import roles
from interp_jax.models.cache import Prefix
from interp_jax.models.decoder import as_prefix
from interp_jax.runtime.compilation import Plan, plan
from interp_jax.studies.thought_anchors.asking import Trace, ask, chosen_problem, given_trace
from interp_jax.studies.thought_anchors.base_trace import sampler
from interp_jax.studies.thought_anchors.config import ThoughtAnchorsConfig
from interp_jax.studies.thought_anchors.suppression import SOURCES_AT_ONCE
from interp_jax.studies.thought_anchors.suppression_suffix import (
    compact,
    edited_streams,
    rows_per_call,
    suffix_batch,
    suffix_groups,
)
from interp_jax.studies.thought_anchors.trace_batch import require_fits


def plan_run(lm: LanguageModel, config: ThoughtAnchorsConfig) -> dict[str, Plan]:
    """Compiles the big programs of a run for the longest base trace that may come out of it.

    Returns:
        Name of the program to what it needs: `rollouts` (a batch of decoding; the compiler
        counts one step) and `suppression` (a batch of sources, of the longest group).
    """
    config = config.resolved()
    plans: dict[str, Plan] = {}
    if config.trace is not None:
        trace = given_trace(lm, config)
    else:
        problem = chosen_problem(config)
        prompt = ask(lm, problem.question, config.instruction, config.opening)
        longest = np.zeros(config.max_new_tokens, np.int32)
        edges = np.linspace(0, len(longest), config.max_sentences + 1).astype(np.int32)
        spans = np.stack([edges[:-1], edges[1:]], axis=1)
        trace = Trace(prompt, longest, "", (), spans)
        plans["rollouts"] = _decoding(lm, len(trace.ids), config)
    plans["suppression"] = _hiding(lm, trace, min(SOURCES_AT_ONCE, config.batch_size))
    return plans


def _hiding(lm: LanguageModel, trace: Trace, at_once: int) -> Plan:
    require_fits(len(trace.ids), lm.network.config)
    end = int(trace.spans[:, 1].max())
    groups = suffix_groups(trace.spans[:, 0], end)
    rows = rows_per_call(groups, at_once)
    network = jax.eval_shape(compact, lm.network)
    latest = max(group.start for group in groups)
    prefix = None
    if latest:
        empty = lambda network: as_prefix(network.empty_cache(1, bucket(latest, 64)))
        prefix = jax.eval_shape(empty, network)
    row = (trace.ids[:end], trace.roles[:end])
    batch = suffix_batch([row] * rows, groups[0], len(trace.ids))
    return plan(
        edited_streams, network, batch, prefix, np.zeros(rows, np.int32),
        np.zeros((rows, 1, 2), np.int32),
    )


def _decoding(lm: LanguageModel, length: int, config: ThoughtAnchorsConfig) -> Plan:
    engine = sampler(lm, config)

    def slots(network) -> tuple[object, Prefix]:
        prefix = as_prefix(network.empty_cache(1, bucket(length, 64)))
        return empty_slots(
            network, config.batch_size, bucket(1 + config.max_new_tokens),
            config.max_new_tokens, prefix=prefix,
        )

    shapes = jax.eval_shape(slots, lm.network)
    return plan(
        decode_chunk, lm.network, shapes, engine.params, engine.stop_tokens,
        jnp.asarray(roles.REASONING, jnp.int8), jnp.int32(1), jnp.int32(1),
    )
