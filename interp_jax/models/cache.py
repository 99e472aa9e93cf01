"""The key-value cache: one shared prefix, and each row's own suffix.

A prefix is held once, whatever the number of rows; row b sees its first
`cut[b]` positions. So the cache of one trace serves every sentence of it: a
row that continues after token c has `cut = c` and an empty suffix. Suffix slot
s of row b holds position `cut[b] + s`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.models.batch import NOWHERE, Batch
from interp_jax.models.layers import wide


@struct.pytree_dataclass
class Prefix(struct.Struct):
    """Keys and values that all rows share.

    Attributes:
        layers: one entry for each segment of the network: (k, v) for a block, k
            [1, K, head_dim, P] and v [1, K, P, head_dim] (a query's dot products and
            its mix of values then run along contiguous vectors); a tuple over the
            pattern of (k, v), each with a leading axis of n, for a stack.
        tokens, roles, valid: [1, P].
    """

    layers: tuple
    tokens: jax.Array
    roles: jax.Array
    valid: jax.Array

    def sliced(self, length: int) -> Prefix:
        """The first `length` positions: exactly the cache of that shorter prefix."""
        cut = lambda a: a[:, :length]
        layers = map_keys(lambda k: k[..., :length], lambda v: v[..., :length, :], self.layers)
        return Prefix(layers, cut(self.tokens), cut(self.roles), cut(self.valid))


@struct.pytree_dataclass
class Cache(struct.Struct):
    """What a network needs to go on from where it stopped.

    Attributes:
        layers: as in `Prefix`, with rows B and S slots in place of 1 and P.
        tokens, roles: [B, S]; of the suffix.
        used: int32 [B]; suffix slots filled.
        cut: int32 [B]; how much of the prefix each row sees.
        lengths: int32 [B]; see `Batch.lengths`.
        prefix: shared keys and values, or None.
    """

    layers: tuple
    tokens: jax.Array
    roles: jax.Array
    used: jax.Array
    cut: jax.Array
    lengths: jax.Array
    prefix: Prefix | None = None

    @property
    def slots(self) -> int:
        """Suffix slots of each row."""
        return self.tokens.shape[1]

    @property
    def next_position(self) -> jax.Array:
        """int32 [B]; the position of each row's next token."""
        return self.cut + self.used

    def suffix_keys(self) -> Batch:
        """The tokens behind the suffix slots."""
        slots = jnp.arange(self.slots, dtype=jnp.int32)[None, :]
        valid = slots < self.used[:, None]
        positions = jnp.where(valid, self.cut[:, None] + slots, jnp.int32(0))
        return Batch(self.tokens, valid, positions, self.roles, self.lengths)

    def prefix_keys(self) -> Batch | None:
        """The tokens of the prefix, as each row sees them: [B, P]."""
        if self.prefix is None:
            return None
        rows = self.used.shape[0]
        columns = jnp.arange(self.prefix.tokens.shape[1], dtype=jnp.int32)[None, :]
        valid = self.prefix.valid & (columns < self.cut[:, None])
        spread = lambda a: jnp.broadcast_to(a, (rows, a.shape[1]))
        positions = jnp.where(valid, columns, jnp.int32(0))
        return Batch(
            spread(self.prefix.tokens), valid, positions, spread(self.prefix.roles), self.lengths
        )

    def appended(self, batch: Batch) -> Cache:
        """The bookkeeping (not the keys and values) after `batch` is added."""
        rows = jnp.arange(batch.tokens.shape[0])[:, None]
        slots = self.target_slots(batch)
        return dataclasses.replace(
            self,
            tokens=self.tokens.at[rows, slots].set(batch.tokens, mode="drop"),
            roles=self.roles.at[rows, slots].set(batch.roles, mode="drop"),
            used=self.used + jnp.sum(batch.valid, axis=1, dtype=jnp.int32),
            lengths=batch.lengths,
        )

    def target_slots(self, batch: Batch) -> jax.Array:
        """int32 [B, T]; the slot of each new token; `slots` (dropped) where invalid."""
        columns = jnp.arange(batch.tokens.shape[1], dtype=jnp.int32)[None, :]
        return jnp.where(batch.valid, self.used[:, None] + columns, jnp.int32(self.slots))


def map_keys(keys, values, *layers: tuple) -> tuple:
    """`keys` and `values` applied to every k and v of `Cache.layers` of the same network."""
    if isinstance(layers[0][0], tuple):
        return tuple(map_keys(keys, values, *own) for own in zip(*layers, strict=True))
    (k, v) = zip(*layers, strict=True)
    return keys(*k), values(*v)


def write_keys(stored: tuple, new: tuple, slots: jax.Array) -> tuple:
    """Writes new keys and values into one layer's cache.

    Args:
        stored: k [B, K, head_dim, S] and v [B, K, S, head_dim].
        new: k and v, each [B, T, K, head_dim].
        slots: int32 [B, T]; S or more is dropped.
    """
    (k, v), (new_k, new_v) = stored, new
    rows = jnp.arange(slots.shape[0], dtype=jnp.int32)[:, None]
    return (
        k.at[rows, :, :, slots].set(new_k.astype(k.dtype), mode="drop"),
        v.at[rows, :, slots].set(new_v.astype(v.dtype), mode="drop"),
    )


def cache_dtype(weights: jnp.dtype) -> jnp.dtype:
    """What keys and values are held in, for weights of a dtype.

    The weights' own; on a CPU float32 for bfloat16, since XLA there converts a whole
    bfloat16 array, forth and back, whenever something is written into it.
    """
    return wide(weights) if jax.default_backend() == "cpu" else jnp.dtype(weights)


def position_or_nowhere(keys: Batch) -> jax.Array:
    """int32 [B, S]; see `Batch.key_positions`."""
    return jnp.where(keys.valid, keys.positions, jnp.int32(NOWHERE))


def join_keys(*groups: Batch | None) -> Batch:
    """Key tokens of several groups, one after the other along S."""
    groups = tuple(g for g in groups if g is not None)
    if len(groups) == 1:
        return groups[0]
    join = lambda name: jnp.concatenate([getattr(g, name) for g in groups], axis=1)
    return Batch(
        join("tokens"), join("valid"), join("positions"), join("roles"), groups[-1].lengths
    )
