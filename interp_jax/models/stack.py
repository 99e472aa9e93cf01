"""Layers under `lax.scan`: one compiled body for every repeat of the pattern.

The scan runs over the repeating layer pattern; the weights are scanned inputs,
the cache rides in the carry (as scanned inputs and outputs it would be copied
at every step). What taps read is written into a buffer that has room for the
tap's own layers only.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.models.block import Block, Frame
from interp_jax.models.taps import Placed, Record


@struct.pytree_dataclass
class Stack(struct.Struct):
    """`repeats` copies of a pattern of blocks, with their weights stacked.

    Attributes:
        pattern: blocks whose weights have a leading axis of `repeats`.
        taps: for each block of the pattern, what is placed there: gates and
            slots [repeats], the taps' own leaves shared by all repeats.
        repeats: how often the pattern runs.
        start: layer number of the first block.
    """

    pattern: tuple[Block, ...]
    taps: tuple[tuple[Placed, ...], ...]
    repeats: int = dataclasses.field(metadata={"pytree_node": False})
    start: int = dataclasses.field(metadata={"pytree_node": False})

    def __call__(self, x: jax.Array, frame: Frame, stored, prefix, record: Record):
        """Runs all repeats; arguments and results as in `Block`."""

        def step(carry, inputs):
            x, stored, reads, counts = carry
            index, pattern, schedule, before = inputs
            inner, kept = Record(), []
            for j, block in enumerate(pattern):
                taps = tuple(
                    dataclasses.replace(placed, gate=gate, slots=slots)
                    for placed, (gate, slots) in zip(self.taps[j], schedule[j], strict=True)
                )
                own = None if stored is None else jax.tree.map(lambda a: a[index], stored[j])
                shared = None if before is None else before[j]
                block = dataclasses.replace(block, taps=taps)
                x, own = block(x, frame, own, shared, inner)
                kept.append(own)
            if stored is not None:
                put = lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, index, 0)
                stored = jax.tree.map(put, stored, tuple(kept))
            if reads is not None:
                reads = {n: _write(reads[n], inner.reads[n]) for n in reads}
                counts = {n: counts[n] + inner.counts[n] for n in counts}
            return (x, stored, reads, counts), inner

        schedule = tuple(tuple((p.gate, p.slots) for p in placed) for placed in self.taps)
        inputs = (jnp.arange(self.repeats, dtype=jnp.int32), self.pattern, schedule, prefix)
        reads, counts, rooms = self._buffers(step, x, stored, inputs)
        body = lambda carry, inputs: (step(carry, inputs)[0], None)
        (x, stored, reads, counts), _ = jax.lax.scan(body, (x, stored, reads, counts), inputs)
        for name, rows in counts.items():
            record.count(name, rows)
        for name, buffer in reads.items():
            for slot in rooms[name]:
                record.read(name, slot, buffer[slot])
        return x, stored

    def _buffers(self, step, x, stored, inputs):
        """Zeroed buffers for what the taps will say, from the shapes of one step."""

        def look(x, stored, inputs):
            _, inner = step((x, stored, None, None), jax.tree.map(lambda a: a[0], inputs))
            return {n: entries[0][1] for n, entries in inner.reads.items()}, inner.counts

        reads, counts = jax.eval_shape(look, x, stored, inputs)
        rooms = self._rooms()
        zeros = lambda shape: jnp.zeros(shape.shape, shape.dtype)
        buffers = {
            name: jnp.zeros((max(rooms[name]) + 1, *shape.shape), shape.dtype)
            for name, shape in reads.items()
        }
        return buffers, {name: zeros(shape) for name, shape in counts.items()}, rooms

    def _rooms(self) -> dict[str, list[int]]:
        """Tap name -> its slots that this stack fills."""
        rooms: dict[str, list[int]] = {}
        layers = range(self.start, self.start + self.repeats * len(self.pattern))
        for placed in (p for taps in self.taps for p in taps):
            own = placed.tap.site.layers
            slots = list(layers) if own is None else [own.index(l) for l in layers if l in own]
            rooms[placed.tap.name] = slots
        return rooms

    def isolate(self, layers: set[int]) -> tuple[Block | Stack, ...]:
        """Segments in which `layers` stand as blocks, the rest still scanned."""
        period, blocks = len(self.pattern), self.blocks()
        segments, begin = [], 0
        for repeat in range(self.repeats + 1):
            first = self.start + repeat * period
            alone = repeat == self.repeats or layers & set(range(first, first + period))
            if not alone:
                continue
            if repeat - begin >= 2:
                segments.append(self._part(begin, repeat))
            elif repeat > begin:
                segments += blocks[begin * period : repeat * period]
            if repeat < self.repeats:
                segments += blocks[repeat * period : (repeat + 1) * period]
            begin = repeat + 1
        return tuple(segments)

    def first(self, repeats: int) -> Stack:
        """The first so many repeats, without taps that apply to none of them."""
        return self if repeats == self.repeats else self._part(0, repeats)

    def _part(self, begin: int, end: int) -> Stack:
        """Repeats `begin` to `end`, without taps that apply to none of them."""
        cut = lambda a: a[begin:end]
        start = self.start + begin * len(self.pattern)
        layers = set(range(start, start + (end - begin) * len(self.pattern)))
        meets = lambda own: own is None or layers & set(own)
        taps = tuple(
            tuple(
                dataclasses.replace(p, gate=cut(p.gate), slots=cut(p.slots))
                for p in placed if meets(p.tap.site.layers)
            )
            for placed in self.taps
        )
        return Stack(jax.tree.map(cut, self.pattern), taps, end - begin, start)

    def blocks(self) -> list[Block]:
        """The layers as blocks of their own, with the taps that apply to each."""
        rooms = self._rooms()
        result = []
        for repeat in range(self.repeats):
            for j, stacked in enumerate(self.pattern):
                layer = self.start + repeat * len(self.pattern) + j
                block = jax.tree.map(lambda a, i=repeat: a[i], stacked)
                taps = []
                for placed in self.taps[j]:
                    own = placed.tap.site.layers
                    slot = layer if own is None else own.index(layer) if layer in own else None
                    if slot is not None and slot in rooms[placed.tap.name]:
                        taps.append(Placed(placed.tap, placed.gate[repeat], None, slot))
                result.append(dataclasses.replace(block, taps=tuple(taps)))
        return result


def _write(buffer: jax.Array, entries) -> jax.Array:
    """Puts what was read into its slot; a slot past the end is dropped."""
    for slot, value in entries:
        buffer = buffer.at[slot].set(value, mode="drop")
    return buffer


def stack_blocks(blocks: list[Block], period: int) -> tuple[Block | Stack, ...]:
    """Segments for a scan over the pattern; layers that do not fill it stay blocks.

    Blocks must carry no taps: place interventions after choosing the layout,
    or let `Decoder.with_layout` refuse.
    """
    repeats = len(blocks) // period
    if repeats < 2:
        return tuple(blocks)
    pattern = tuple(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks[j : repeats * period : period])
        for j in range(period)
    )
    stack = Stack(pattern, ((),) * period, repeats, 0)
    return (stack, *blocks[repeats * period :])
