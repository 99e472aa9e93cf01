"""The network: a Penzai tree that returns `(logits, tape)`.

Layers are held in segments: single blocks (unrolled) or a stack that repeats
the layer pattern under `lax.scan`. Interventions rewrite the tree; nothing
here knows about them except through `taps`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.models.batch import Batch
from interp_jax.models.block import Block, Frame, block_parameters, build_block
from interp_jax.models.cache import Cache, Prefix, cache_dtype
from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.layers import RMSNorm, rotary_angles, softcap, wide
from interp_jax.models.stack import Stack, stack_blocks
from interp_jax.models.taps import Context, Placed, Record, run_taps
from interp_jax.runtime.errors import UserError

Layout = Literal["unrolled", "scanned"]
Tape = dict[str, jax.Array]


@struct.pytree_dataclass
class Decoder(struct.Struct):
    """A decoder-only language model over plain arrays.

    Attributes:
        embed: [V, D]; also the head when `config.tied_head` (one leaf).
        segments: `Block`s and `Stack`s, in layer order.
        final_norm: over the last stream.
        head: [D, V], or None when tied.
        config: static description.
        taps: what is placed at `embed`, `final_norm` and `logits`.
        path: attention path: `auto`, `fused` or `reference`.
    """

    embed: jax.Array
    segments: tuple[Block | Stack, ...]
    final_norm: RMSNorm
    head: jax.Array | None
    config: ModelConfig = dataclasses.field(metadata={"pytree_node": False})
    taps: tuple[Placed, ...] = ()
    path: str = dataclasses.field(default="auto", metadata={"pytree_node": False})

    def __call__(self, batch: Batch, *, logits_at="all") -> tuple[jax.Array, Tape]:
        """Runs the network.

        Args:
            batch: rows of tokens.
            logits_at: `all`, `last` (each row's last token), `none`, or int32
                [B, P] columns of the caller's layout.

        Returns:
            Logits, float32 [B, T or 1 or 0 or P, V], and the tape.
        """
        logits, tape, _ = self.extend(batch, None, logits_at=logits_at)
        return logits, tape

    def extend(self, batch: Batch, cache: Cache | None, *, logits_at="last", fresh=False):
        """Runs the network on tokens that continue `cache`.

        Args:
            batch: the new tokens, packed, with positions from `cache.next_position`.
            cache: what came before; None for nothing, and then none is returned.
            logits_at: as in `__call__`.
            fresh: promise that the cache's suffix is empty (a prefill).

        Returns:
            (logits, tape, the cache with the new tokens).
        """
        config = self.config
        dtype = wide(self.embed.dtype)
        record = Record()
        context = Context(
            batch=batch, gate=jnp.ones((), dtype), slot=0,
            n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
        )
        x = jnp.take(self.embed, batch.tokens, axis=0).astype(dtype)
        if config.embed_scale != 1.0:
            x = x * jnp.asarray(config.embed_scale, dtype)
        x = run_taps(self.taps, "embed", x, context, record)
        angles = {
            kind.rope: rotary_angles(kind.rope, config.head_dim, batch.positions, dtype)
            for kind in config.pattern
        }
        frame = Frame(config, batch, angles, self.path, cache, fresh)
        stored = cache.layers if cache is not None else (None,) * len(self.segments)
        prefix = cache.prefix if cache is not None else None
        shared = prefix.layers if prefix is not None else (None,) * len(self.segments)
        kept = []
        for segment, own, before in zip(self.segments, stored, shared, strict=True):
            x, own = segment(x, frame, own, before, record)
            kept.append(own)
        logits = self._logits(x, batch, logits_at, context, record)
        if cache is not None:
            cache = dataclasses.replace(cache.appended(batch), layers=tuple(kept))
        return logits, _tape(record), cache

    def _logits(self, x, batch: Batch, logits_at, context: Context, record: Record):
        x = run_taps(self.taps, "final_norm", self.final_norm(x), context, record)
        everywhere = isinstance(logits_at, str) and logits_at == "all"
        if isinstance(logits_at, str) and logits_at == "none":
            return jnp.zeros((x.shape[0], 0, self.config.vocab_size), x.dtype)
        if not everywhere:
            last = isinstance(logits_at, str)
            columns = batch.last[:, None] if last else batch.pack_columns(logits_at)
            x = jnp.take_along_axis(x, columns[..., None], axis=1)
            context = dataclasses.replace(context, batch=batch.at(columns))
        logits = self._head(x)
        logits = run_taps(self.taps, "logits", logits, context, record)
        return batch.unpack(logits) if everywhere else logits

    def _head(self, x: jax.Array) -> jax.Array:
        matrix, spec = (self.embed, "vd") if self.head is None else (self.head, "dv")
        logits = jnp.einsum(
            f"btd,{spec}->btv", x.astype(matrix.dtype), matrix,
            preferred_element_type=wide(matrix.dtype),
        )
        return softcap(logits, self.config.logit_softcap)

    def unembed(self, stream: jax.Array) -> jax.Array:
        """A stream [B, T, D] through the final norm, the head and any cap; no taps act."""
        return self._head(self.final_norm(stream))

    @property
    def layout(self) -> Layout:
        """`scanned` when any segment is a stack."""
        return "scanned" if any(isinstance(s, Stack) for s in self.segments) else "unrolled"

    def parameters(self) -> dict[str, jax.Array]:
        """Canonical name -> array, as in `config.parameter_shapes`."""
        params = {"embed.table": self.embed}
        for layer, block in enumerate(self.blocks()):
            for name, value in block_parameters(block).items():
                params[f"layers.{layer}.{name}"] = value
        params["final_norm.gain"] = self.final_norm.gain
        if self.head is not None:
            params["head.weight"] = self.head
        return {name: params[name] for name in parameter_shapes(self.config)}

    def blocks(self) -> list[Block]:
        """Every layer as a block of its own, with its taps."""
        return [b for s in self.segments for b in (s.blocks() if isinstance(s, Stack) else [s])]

    def with_layout(self, layout: Layout) -> Decoder:
        """The same network with layers unrolled or scanned; same numbers.

        Raises:
            UserError: scanning layers in which something is placed. Unrolling keeps it there.
        """
        if layout == "scanned" and any(block.taps for block in self.blocks()):
            raise UserError(
                found="interventions in the layers to be scanned", expected="a bare network",
                do="detach them, change the layout, and place them again",
            )
        return dataclasses.replace(self, segments=_segments(self.config, self.blocks(), layout))

    def empty_cache(self, rows: int, slots: int, prefix: Prefix | None = None) -> Cache:
        """A cache for `rows` rows of `slots` own tokens each.

        With a prefix, every row starts by seeing all of it (`cut`); replace
        `cut` to give each row its own length.
        """
        cut = 0 if prefix is None else prefix.tokens.shape[1]
        fill = lambda value: jnp.full((rows,), value, jnp.int32)
        return Cache(
            layers=self._empty_layers(rows, slots),
            tokens=jnp.zeros((rows, slots), jnp.int32), roles=jnp.zeros((rows, slots), jnp.int8),
            used=fill(0), cut=fill(cut), lengths=fill(cut), prefix=prefix,
        )

    def _empty_layers(self, rows: int, slots: int) -> tuple:
        config, layers = self.config, []
        held = lambda linear: cache_dtype(linear.weight.dtype)
        for segment in self.segments:
            stacked = isinstance(segment, Stack)
            lead = (segment.repeats, rows) if stacked else (rows,)
            keys = (*lead, config.n_kv_heads, config.head_dim, slots)
            values = (*lead, config.n_kv_heads, slots, config.head_dim)
            pairs = tuple(
                (jnp.zeros(keys, held(b.k)), jnp.zeros(values, held(b.v)))
                for b in (segment.pattern if stacked else (segment,))
            )
            layers.append(pairs if stacked else pairs[0])
        return tuple(layers)


def as_prefix(cache: Cache, columns: int | None = None) -> Prefix:
    """The cache of one row as a prefix for many.

    Args:
        cache: of one row, without a prefix of its own.
        columns: how many of its slots; None for all of them.

    Raises:
        UserError: more than one row, or a cache that has a prefix.
    """
    if cache.used.shape[0] != 1 or cache.prefix is not None:
        raise UserError(
            found=f"a cache of {cache.used.shape[0]} rows", expected="one row and no prefix",
            do="prefill the prefix alone",
        )
    prefix = Prefix(cache.layers, cache.tokens, cache.roles, cache.suffix_keys().valid)
    return prefix if columns is None else prefix.sliced(columns)


def build_decoder(
    config: ModelConfig, params: dict[str, jax.Array], layout: Layout = "unrolled"
) -> Decoder:
    """A network from canonical parameters (`config.parameter_shapes`).

    Raises:
        UserError: missing, unexpected or misshapen parameters.
    """
    shapes = parameter_shapes(config)
    wrong = [
        f"{name} {tuple(params[name].shape) if name in params else 'missing'} (want {shape})"
        for name, shape in shapes.items()
        if name not in params or tuple(params[name].shape) != shape
    ]
    wrong += [f"{name} (unexpected)" for name in params if name not in shapes]
    if wrong:
        raise UserError(
            found="parameters " + "; ".join(wrong[:8]), expected=f"those of {config.family}",
            do="check that the weights belong to this config",
        )
    blocks = []
    for layer in range(config.n_layers):
        at = f"layers.{layer}."
        own = {n.removeprefix(at): v for n, v in params.items() if n.startswith(at)}
        blocks.append(build_block(config, config.layer_kind(layer), own))
    return Decoder(
        embed=params["embed.table"],
        segments=_segments(config, blocks, layout),
        final_norm=RMSNorm(params["final_norm.gain"], config.norm_eps, config.norm_offset),
        head=params.get("head.weight"),
        config=config,
    )


def _segments(config: ModelConfig, blocks: list[Block], layout: Layout):
    if layout == "unrolled":
        return tuple(blocks)
    return stack_blocks(blocks, len(config.pattern))


def _tape(record: Record) -> Tape:
    tape = dict(record.counts)
    for name, entries in record.reads.items():
        if entries[0][0] is None:
            (_, tape[name]), = entries
        else:
            entries = sorted(entries, key=lambda entry: entry[0])
            tape[name] = jnp.stack([value for _, value in entries])
    return tape
