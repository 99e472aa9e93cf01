"""Adapters chosen per row cost what one adapter costs: each row gathers its own."""

import jax
import jax.numpy as jnp

from interp_jax.interventions.lora import lora, stack_loras
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.compilation import plan
from interp_jax.testing.tiny import random_parameters, tiny_config

ROWS = 8


def flops(network, adapter) -> float:
    batch = Batch.make(jnp.ones((ROWS, 16), jnp.int32))
    return plan(lambda n, a, b: a(n)(b)[0], network, adapter, batch).flops


def test_eight_adapters_in_a_batch_cost_what_one_costs():
    config = tiny_config("llama")
    network = build_decoder(config, random_parameters(config, 0))
    keys = jax.random.split(jax.random.key(0), ROWS)
    options = {"rank": 8, "targets": ("q", "k", "v", "o", "gate", "up", "down")}
    each = [lora(config, key, **options) for key in keys]
    one = flops(network, each[0])
    eight = flops(network, stack_loras(each).for_rows(range(ROWS)))
    assert eight <= 1.1 * one
    # The bound has teeth: computing all eight and choosing afterwards would break it.
    wide = lora(config, keys[0], **(options | {"rank": 8 * ROWS}))
    assert flops(network, wide) > 1.1 * one
