"""A loop over blocks that writes what comes out of a block in the place of what went in.

A scan that stacks its results begins with a buffer of zeros for them. That depends on nothing, so
XLA makes those of all layers of an unrolled network at once: four to nine times the scratch memory
of a forward pass (measured on a CPU with 30 layers and 1,024 to 4,096 tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_place(
    function: Callable[[jax.Array, Any], tuple[jax.Array, Any]], blocks: jax.Array, items: Any
) -> tuple[jax.Array, Any]:
    """Goes over blocks; what comes out of a block is written where it lay.

    Args:
        function: (block, item) -> (block of the same shape and dtype, anything).
        blocks: [n, ...]. items: what belongs to each of them, stacked.

    Returns:
        The new blocks, and the rest of the results, stacked.
    """

    def step(at_work: jax.Array, item: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        index, own = item
        block = jax.lax.dynamic_index_in_dim(at_work, index, keepdims=False)
        block, more = function(block, own)
        return jax.lax.dynamic_update_index_in_dim(at_work, block, index, 0), more

    return jax.lax.scan(step, blocks, (jnp.arange(len(blocks), dtype=jnp.int32), items))
