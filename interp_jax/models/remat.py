"""Blocks that are run again for the gradient instead of keeping what they computed."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
from penzai.core import struct

from interp_jax.models.block import Block, Frame
from interp_jax.models.decoder import Decoder
from interp_jax.models.stack import Stack
from interp_jax.models.taps import Record


@partial(struct.pytree_dataclass, has_implicitly_inherited_fields=True)
class RematBlock(Block):
    """A block under `jax.checkpoint`: the backward pass keeps its input only."""

    def __call__(self, x: jax.Array, frame: Frame, stored, prefix, record: Record):
        """As `Block`; with a cache (which has no gradient) nothing is different."""
        if stored is not None or prefix is not None:
            return Block.__call__(self, x, frame, stored, prefix, record)
        slots: dict[str, list] = {}

        def inside(x):
            # What taps say leaves as a result; where it is put does not depend on what is computed.
            inner = Record()
            x, _ = Block.__call__(self, x, frame, None, None, inner)
            slots.update({name: [slot for slot, _ in own] for name, own in inner.reads.items()})
            reads = {name: [value for _, value in own] for name, own in inner.reads.items()}
            return x, inner.counts, reads

        x, counts, reads = jax.checkpoint(inside)(x)
        for name, rows in counts.items():
            record.count(name, rows)
        for name, values in reads.items():
            for slot, value in zip(slots[name], values, strict=True):
                record.read(name, slot, value)
        return x, None


def with_remat(network: Decoder) -> Decoder:
    """The same network, whose gradient takes a forward pass more and the memory of one block.

    Same numbers; for training, `parameters` and everything placed stay as they are.
    """
    again = lambda block: RematBlock(
        **{field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
    )
    segments = tuple(
        dataclasses.replace(segment, pattern=tuple(again(block) for block in segment.pattern))
        if isinstance(segment, Stack) else again(segment)
        for segment in network.segments
    )  # fmt: skip
    return dataclasses.replace(network, segments=segments)
