"""One transformer block, with a tap at every site."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.models.attention import KeyGroup, Scoring, attend
from interp_jax.models.batch import Batch
from interp_jax.models.cache import Cache, join_keys, write_keys
from interp_jax.models.config import LayerKind, ModelConfig
from interp_jax.models.layers import Linear, RMSNorm, activate, rotate
from interp_jax.models.taps import Context, Placed, Record, run_taps
from interp_jax.models.token_parts import in_parts

# Taps here are given all tokens at once.
_MLP_INSIDE = frozenset(("proj_gate", "proj_up", "mlp_hidden", "proj_down"))


@dataclasses.dataclass(frozen=True)
class Frame:
    """What all blocks of one forward pass share.

    Attributes:
        config: of the network.
        batch: the tokens being run.
        angles: rotation by `Rope`, each (cos, sin) [B, T, head_dim / 2].
        path: see `attention.attend`.
        cache: bookkeeping of the cache before this batch, or None.
        fresh: the cache's suffix is known to be empty: new keys are attended
            to directly and only written, not read back.
    """

    config: ModelConfig
    batch: Batch
    angles: dict
    path: str
    cache: Cache | None = None
    fresh: bool = False


@struct.pytree_dataclass
class Block(struct.Struct):
    """Attention and a gated MLP, each added to the stream.

    Attributes:
        attn_norm, mlp_norm: before each part.
        q, k, v, o, gate, up, down: projections.
        q_norm, k_norm: over each head, or None.
        attn_post_norm, mlp_post_norm: over what is added, or None.
        kind: window and rotation.
        taps: what is placed here, in the order composed.
    """

    attn_norm: RMSNorm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    mlp_norm: RMSNorm
    gate: Linear
    up: Linear
    down: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    attn_post_norm: RMSNorm | None
    mlp_post_norm: RMSNorm | None
    kind: LayerKind = dataclasses.field(metadata={"pytree_node": False})
    taps: tuple[Placed, ...] = ()

    def __call__(self, x: jax.Array, frame: Frame, stored, prefix, record: Record):
        """Runs the block.

        Args:
            x: [B, T, D], the stream, in the wide dtype.
            frame: see `Frame`.
            stored: (k, v) of the row's own suffix as in `Cache`, or None without a cache.
            prefix: (k, v) of the shared prefix, or None.
            record: what taps say is put here.

        Returns:
            The stream after the block, and `stored` with the new keys.
        """
        context = Context(
            batch=frame.batch, gate=jnp.ones((), x.dtype), slot=0,
            n_heads=frame.config.n_heads, n_kv_heads=frame.config.n_kv_heads,
        )
        tap = lambda site, value: run_taps(self.taps, site, value, context, record)
        project = lambda name, value: self._project(name, value, context, record)

        x = tap("resid_pre", x)
        added, stored = self._attention(x, frame, stored, prefix, context, record, tap, project)
        x = tap("resid_mid", x + added)
        hidden = tap("mlp_in", self.mlp_norm(x))
        whole = any(placed.tap.site.name in _MLP_INSIDE for placed in self.taps)
        mlp = partial(self._mlp, frame.config.activation, tap, project)
        added = mlp(hidden) if whole else in_parts(mlp, hidden)
        if self.mlp_post_norm is not None:
            added = self.mlp_post_norm(added)
        return tap("resid_post", x + tap("mlp_out", added)), stored

    def _mlp(self, activation: str, tap, project, x: jax.Array) -> jax.Array:
        hidden = activate(activation, project("gate", x)) * project("up", x)
        return project("down", tap("mlp_hidden", hidden))

    def _project(self, name: str, x: jax.Array, context: Context, record: Record):
        y = getattr(self, name)(x)
        for placed in self.taps:
            if placed.tap.site.name == f"proj_{name}":
                y = placed.tap.visit((x, y), placed.context(context), record)
        return y

    def _attention(self, x, frame, stored, prefix, context, record, tap, project):
        config, batch = frame.config, frame.batch
        rows, length, _ = x.shape
        hidden = tap("attn_in", self.attn_norm(x))
        split = lambda y, heads: y.reshape(rows, length, heads, config.head_dim)
        q = split(project("q", hidden), config.n_heads)
        k = split(project("k", hidden), config.n_kv_heads)
        v = split(project("v", hidden), config.n_kv_heads)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        angles = frame.angles[self.kind.rope]
        q = tap("attn_q", rotate(q, angles))
        k = tap("attn_k", rotate(k, angles)).astype(self.k.weight.dtype)
        v = tap("attn_v", v).astype(self.v.weight.dtype)
        groups, stored = _key_groups(k, v, frame, stored, prefix)
        context = dataclasses.replace(context, keys=join_keys(*(g.tokens for g in groups)))
        scoring = Scoring(config.query_scale, config.attn_softcap, self.kind.window)
        heads = attend(q, groups, batch, scoring, self.taps, context, record, frame.path)
        heads = tap("head_out", heads)
        added = project("o", heads.reshape(rows, length, -1))
        if self.attn_post_norm is not None:
            added = self.attn_post_norm(added)
        return tap("attn_out", added), stored


def _key_groups(k, v, frame: Frame, stored, prefix):
    """What the queries may look at, and the suffix with the new keys written."""
    batch, cache = frame.batch, frame.cache
    if cache is None:
        return (KeyGroup(k, v, batch),), None
    stored = write_keys(stored, (k, v), cache.target_slots(batch))
    groups = []
    if prefix is not None:
        groups.append(KeyGroup(*prefix, cache.prefix_keys(), cached=True))
    if frame.fresh:
        groups.append(KeyGroup(k, v, batch))
    else:
        groups.append(KeyGroup(*stored, cache.appended(batch).suffix_keys(), cached=True))
    return tuple(groups), stored


def build_block(config: ModelConfig, kind: LayerKind, params: dict[str, jax.Array]) -> Block:
    """A block from one layer's parameters, named as in `parameter_shapes`."""
    norm = lambda name: (
        RMSNorm(params[f"{name}.gain"], config.norm_eps, config.norm_offset)
        if f"{name}.gain" in params else None
    )
    linear = lambda name: Linear(params[f"{name}.weight"], params.get(f"{name}.bias"))
    return Block(
        attn_norm=norm("attn_norm"), q=linear("q"), k=linear("k"), v=linear("v"), o=linear("o"),
        mlp_norm=norm("mlp_norm"), gate=linear("gate"), up=linear("up"), down=linear("down"),
        q_norm=norm("q_norm"), k_norm=norm("k_norm"), attn_post_norm=norm("attn_post_norm"),
        mlp_post_norm=norm("mlp_post_norm"), kind=kind,
    )


def block_parameters(block: Block) -> dict[str, jax.Array]:
    """The inverse of `build_block`: one layer's parameters by name."""
    params: dict[str, jax.Array] = {}
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if isinstance(value, RMSNorm):
            params[f"{field.name}.gain"] = value.gain
        elif isinstance(value, Linear):
            params[f"{field.name}.weight"] = value.weight
            if value.bias is not None:
                params[f"{field.name}.bias"] = value.bias
    return params
