"""Putting taps into a network and taking them out again.

Placing never raises on how often a tap will fire: that is known only when the
network runs, and `run` looks at it there. It does raise on an address that the
network does not have.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from penzai.core import struct

from interp_jax.models.block import Block
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.models.stack import Stack
from interp_jax.models.taps import Placed, Tap
from interp_jax.runtime.errors import UserError


@struct.pytree_dataclass
class Compose(struct.Struct):
    """Several interventions as one, applied in order."""

    parts: tuple

    def __call__(self, network: Decoder) -> Decoder:
        """Applies the first part first."""
        for part in self.parts:
            network = part(network)
        return network


def compose(*interventions) -> Compose:
    """One intervention from several. At one site they act in the order given."""
    return Compose(tuple(i for i in interventions if i is not None))


def place(network: Decoder, tap: Tap, layer_weights: jax.Array | None = None) -> Decoder:
    """`network` with `tap` at its site, after what is there already.

    Args:
        network: unrolled or scanned.
        tap: what to place; a name that is taken gets a number.
        layer_weights: [number of the tap's layers], multiplies its effect layer
            by layer; traced values sweep over layers in one compilation.

    Raises:
        UserError: a layer or head that the network does not have.
    """
    check_site(network, tap.site)
    tap = dataclasses.replace(tap, name=_free_name(network, tap.name))
    if not tap.site.layered:
        placed = Placed(tap, np.float32(1.0))
        return dataclasses.replace(network, taps=(*network.taps, placed))
    own = tap.site.layers
    layers = range(network.config.n_layers) if own is None else own
    slot_of = {layer: slot for slot, layer in enumerate(layers)}
    segments, first = [], 0
    for segment in network.segments:
        count = segment.repeats * len(segment.pattern) if isinstance(segment, Stack) else 1
        here = [layer for layer in range(first, first + count) if layer in slot_of]
        if here and isinstance(segment, Stack) and _stands_apart(tap, len(here), segment):
            parts = segment.isolate(set(here))
        else:
            parts = (segment,)
        for part in parts:
            segments.append(_place_in(part, first, tap, slot_of, layer_weights))
            first += part.repeats * len(part.pattern) if isinstance(part, Stack) else 1
    return dataclasses.replace(network, segments=tuple(segments))


def detach(network: Decoder, *names: str) -> Decoder:
    """`network` without the taps called `names` (all taps when none is named).

    The weights are the same arrays as before; where a stack had to be split for
    the tap it stays split, and they are slices of them. Numbers do not depend
    on it.
    """
    keep = lambda taps: tuple(
        p for p in taps if names and not any(_same(p.tap.name, name) for name in names)
    )
    segments = []
    for segment in network.segments:
        taps = (
            tuple(keep(taps) for taps in segment.taps)
            if isinstance(segment, Stack) else keep(segment.taps)
        )
        segments.append(dataclasses.replace(segment, taps=taps))
    return dataclasses.replace(network, segments=tuple(segments), taps=keep(network.taps))


def tap_names(network: Decoder) -> list[str]:
    """Names of everything placed, once each, in the order met."""
    names: dict[str, None] = {}
    for segment in network.segments:
        groups = segment.taps if isinstance(segment, Stack) else (segment.taps,)
        names.update({p.tap.name: None for group in groups for p in group})
    names.update({p.tap.name: None for p in network.taps})
    return list(names)


def _place_in(part: Block | Stack, first: int, tap: Tap, slot_of, layer_weights):
    if isinstance(part, Block):
        if first not in slot_of:
            return part
        slot = slot_of[first]
        gate = np.float32(1.0) if layer_weights is None else layer_weights[slot]
        return dataclasses.replace(part, taps=(*part.taps, Placed(tap, gate, slot=slot)))
    period = len(part.pattern)
    groups = []
    for j, taps in enumerate(part.taps):
        layers = [first + repeat * period + j for repeat in range(part.repeats)]
        if not any(layer in slot_of for layer in layers):
            groups.append(taps)
            continue
        slots = np.asarray([slot_of.get(layer, len(slot_of)) for layer in layers], np.int32)
        gate = np.asarray(slots < len(slot_of), np.float32)
        if layer_weights is not None:
            weights = jax.numpy.append(layer_weights, jax.numpy.zeros((), layer_weights.dtype))
            gate = weights[slots]
        groups.append((*taps, Placed(tap, gate, slots=slots)))
    return dataclasses.replace(part, taps=tuple(groups))


def _stands_apart(tap: Tap, layers: int, stack: Stack) -> bool:
    """Whether the layers that a tap is placed in are taken out of the scan.

    Those whose weights exist are. Sums over weights made on the way stay in it where every
    layer is asked for them; so do taps that cost as much as a layer.
    """
    if tap.costly:
        return layers < stack.repeats * len(stack.pattern)
    if tap.site.name not in ("attn_scores", "attn_weights") or tap.is_suppression:
        return False
    return not (tap.by_block and layers == stack.repeats * len(stack.pattern))


def _same(name: str, asked: str) -> bool:
    return name == asked or name.startswith(asked + "#")


def _free_name(network: Decoder, name: str) -> str:
    taken, candidate, number = set(tap_names(network)), name, 2
    while candidate in taken:
        candidate, number = f"{name}#{number}", number + 1
    return candidate


def check_site(network: Decoder, site: Site) -> None:
    """Raises UserError when `network` does not have the layers or heads of `site`."""
    config = network.config
    heads = config.n_kv_heads if "K" in site.axes else config.n_heads
    limits = ((site.layers, config.n_layers, "layers"), (site.heads, heads, "heads"))
    for numbers, limit, what in limits:
        beyond = [n for n in numbers or () if n >= limit]
        if beyond:
            raise UserError(
                found=f"{what} {beyond} in {site}",
                expected=f"{what} below {limit}, as this {config.family} network has",
                do="correct the site",
            )
