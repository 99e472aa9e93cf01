"""How anything gets hold of an activation: a tap placed at a site of a block.

The network knows nothing about interventions. At each site it hands the value
to the taps placed there, in order, and takes back a value of the same shape.
A tap says what it counted and what it read through a `Record`; that becomes
the tape. The same `Placed` serves both layer layouts: in an unrolled block its
gate and slot are scalars, in a scanned stack they carry a layer axis, while
the tap's own leaves are shared by all layers.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from penzai.core import struct

from interp_jax.models.batch import Batch
from interp_jax.models.layers import settle
from interp_jax.models.sites import Site


@dataclasses.dataclass(frozen=True)
class Context:
    """What a tap may look at besides the value itself.

    Attributes:
        batch: the tokens along the value's T axis.
        keys: the tokens along its S axis (attention sites only).
        visible: bool [B, T, S]; which keys each query sees (`attn_scores`,
            `attn_weights` only).
        gate: [] weight of this layer: 0 where the tap does not apply.
        slot: this layer's index among the tap's own layers; an int in an
            unrolled block, a traced int32 [] inside a scan.
        n_heads, n_kv_heads: of the network.
    """

    batch: Batch
    gate: jax.Array
    slot: jax.Array | int
    n_heads: int
    n_kv_heads: int
    keys: Batch | None = None
    visible: jax.Array | None = None


# Decorator of every class derived from `Tap`.
tap_class = partial(struct.pytree_dataclass, has_implicitly_inherited_fields=True)


class Record:
    """What the taps of one forward pass said, before it becomes the tape.

    Attributes:
        counts: name -> int32 [B], summed over layers.
        reads: name -> list of (slot, value), one for each layer that was read;
            the slot is None for a site that the network has once.
        held: name -> a value that a tap keeps for another one later in the same block; it
            never reaches the tape.
    """

    def __init__(self):
        self.held: dict[str, jax.Array] = {}
        self.counts: dict[str, jax.Array] = {}
        self.reads: dict[str, list[tuple[jax.Array | int | None, jax.Array]]] = {}

    def count(self, name: str, rows: jax.Array) -> None:
        """Adds int32 [B] to the count `name`."""
        self.counts[name] = self.counts[name] + rows if name in self.counts else rows

    def read(self, name: str, slot, value: jax.Array) -> None:
        """Keeps `value`, read in layer-slot `slot`, under `name`."""
        self.reads.setdefault(name, []).append((slot, value))


@struct.pytree_dataclass
class Tap(struct.Struct):
    """Base of everything that can be placed in a network.

    Attributes:
        name: key of its entries in the tape.
        site: where it goes.
    """

    name: str = dataclasses.field(metadata={"pytree_node": False})
    site: Site = dataclasses.field(metadata={"pytree_node": False})

    def visit(self, value, context: Context, record: Record):
        """Returns the value that goes on; the base class only looks.

        For adapters (`proj_*` sites) `value` is the pair (input, output) of the
        projection and the output is returned.
        """
        raise NotImplementedError

    @property
    def is_suppression(self) -> bool:
        """Whether this tap only adds to scores, so that the fused path carries it.

        Then it has `suppression(context, record) -> Suppression`, and is not
        visited on the reference path either.
        """
        return False

    @property
    def by_block(self) -> bool:
        """Whether this tap, at `attn_weights`, only reads sums over the weights.

        Then the fused path carries it too, a block of queries at a time. It has
        `pooling(context) -> Pooling`, what is to be summed, and
        `pooled(sums, context, record)`, which takes the sums [B, H, M, N] in place of a visit.
        """
        return False

    @property
    def costly(self) -> bool:
        """Whether the layers it is placed in leave a scan, if they are not all of them.

        Inside the scan a tap is computed in every layer and counts in its own ones only.
        """
        return False


@struct.pytree_dataclass
class Placed(struct.Struct):
    """A tap in its place.

    Attributes:
        tap: what is placed.
        gate: [] or [n]; weight of each layer, 0 where the tap does not apply.
        slots: int32 [n] inside a stack: each layer's index among the tap's own
            layers, and one past the last where it does not apply. None in an
            unrolled block.
        slot: the same for an unrolled block, static. None inside a stack and
            for a site that the network has once.
    """

    tap: Tap
    gate: jax.Array
    slots: jax.Array | None = None
    slot: int | None = dataclasses.field(default=None, metadata={"pytree_node": False})

    @property
    def fusable(self) -> bool:
        """Whether the fused attention path can carry this tap."""
        return self.tap.is_suppression

    @property
    def by_block(self) -> bool:
        """Whether the fused attention path can carry this tap's look at the weights."""
        return self.tap.by_block

    def context(self, context: Context) -> Context:
        """`context` as this tap sees it."""
        slot = self.slot if self.slots is None else self.slots
        return dataclasses.replace(context, gate=self.gate, slot=slot)


def at_site(taps: tuple[Placed, ...], site: str) -> tuple[Placed, ...]:
    """The taps placed at `site`, in order."""
    return tuple(placed for placed in taps if placed.tap.site.name == site)


def run_taps(taps: tuple[Placed, ...], site: str, value, context: Context, record: Record):
    """Hands `value` to every tap at `site`, in the order composed."""
    if site in _PRODUCTS:
        value = settle(value)
    for placed in at_site(taps, site):
        value = placed.tap.visit(value, placed.context(context), record)
    return value


# Sites whose value may be a product that an edit, or the stream, adds something to.
_PRODUCTS = frozenset(("embed", "attn_q", "attn_k", "attn_out", "mlp_out"))


def touched(name: str, mask: jax.Array, gate: jax.Array, record: Record) -> None:
    """Counts the tokens of `mask` [B, T] as touched by `name`, where its gate is open."""
    rows = jnp.sum(mask, axis=1, dtype=jnp.int32)
    record.count(f"touched/{name}", rows * (gate != 0).astype(jnp.int32))
