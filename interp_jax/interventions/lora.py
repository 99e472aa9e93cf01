"""Low-rank adapters (LoRA): attach, per row, detach, merge.

`y = x W + scale * (x A) B`, with A [in, r] and B [r, out]. The scale is
alpha / r, or alpha / sqrt(r) for rsLoRA. B starts at zero, so a fresh adapter
leaves the base model's bits. Adapters are taps at the projections, so the base
weights are never touched until `merge`.
"""

from __future__ import annotations

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from penzai.core import struct

from interp_jax.interventions.edits import require_finite, row_factor, static
from interp_jax.interventions.placing import place
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.config import ModelConfig, parameter_shapes
from interp_jax.models.decoder import Decoder, build_decoder
from interp_jax.models.layers import wide
from interp_jax.models.sites import PROJECTIONS, Site
from interp_jax.models.taps import Context, Record, Tap, tap_class, touched
from interp_jax.runtime.errors import UserError


@tap_class
class Adapter(Tap):
    """One projection's adapter, over the layers of its site.

    Attributes:
        a: [layers, in, r], or [layers, N, in, r] for a stack of N adapters.
        b: [layers, r, out], or [layers, N, r, out].
        scale: [] or [N].
        choice: int [B], each row's adapter in the stack; None without a stack.
            Each row gathers its own: the cost does not grow with N.
        where, strength: as in `Edit`.
        layer_weights: [layers] or None; times the strength.
    """

    a: jax.Array = None
    b: jax.Array = None
    scale: jax.Array | float = 1.0
    choice: jax.Array | None = None
    where: Where = EVERYWHERE
    strength: jax.Array | float = 1.0
    layer_weights: jax.Array | None = None

    def __post_init__(self):
        require_finite(
            self.name, a=self.a, b=self.b, scale=self.scale, strength=self.strength,
            layer_weights=self.layer_weights,
        )

    def visit(self, value, context: Context, record: Record):
        """(input, output) of the projection -> output with the adapter's part."""
        x, y = value
        mask = self.where(context.batch)
        touched(self.name, mask, context.gate, record)
        a, b = (jnp.asarray(part)[context.slot] for part in (self.a, self.b))
        scale = jnp.asarray(self.scale).astype(y.dtype)
        if self.choice is None:
            spec_a, spec_b = "bti,ir->btr", "btr,ro->bto"
            scale = scale[None, None]
        else:
            a, b, scale = (jnp.take(v, self.choice, axis=0) for v in (a, b, scale))
            spec_a, spec_b = "bti,bir->btr", "btr,bro->bto"
            scale = scale[:, None]
        hidden = jnp.einsum(spec_a, x.astype(a.dtype), a, preferred_element_type=y.dtype)
        amount = row_factor(self.strength, context.gate, y.dtype) * mask.astype(y.dtype) * scale
        added = jnp.einsum(spec_b, hidden.astype(b.dtype), b, preferred_element_type=y.dtype)
        return y + amount[..., None] * added


@struct.pytree_dataclass
class LoRA(struct.Struct):
    """Adapters on several projections, as one intervention.

    Attributes:
        adapters: projection name -> `Adapter`.
        rank: r.
    """

    adapters: dict[str, Adapter]
    rank: int = static()

    def __call__(self, network: Decoder) -> Decoder:
        """Attaches every adapter; see `place` for what it raises."""
        for adapter in self.adapters.values():
            network = place(network, adapter, adapter.layer_weights)
        return network

    def trainable(self) -> dict[str, dict[str, jax.Array]]:
        """projection -> {"a", "b"}: what training changes."""
        return {name: {"a": t.a, "b": t.b} for name, t in self.adapters.items()}

    def with_trainable(self, values: dict[str, dict[str, jax.Array]]) -> LoRA:
        """The same adapters with other values, as `trainable` gives them."""
        new = {
            name: dataclasses.replace(tap, **values[name]) for name, tap in self.adapters.items()
        }
        return dataclasses.replace(self, adapters=new)

    def with_strength(self, strength, layer_weights=None) -> LoRA:
        """The same adapters at another strength, [] or [B], and weights of their layers."""
        new = {
            n: dataclasses.replace(t, strength=strength, layer_weights=layer_weights)
            for n, t in self.adapters.items()
        }
        return dataclasses.replace(self, adapters=new)

    def for_rows(self, choice) -> LoRA:
        """A stack with each row's adapter chosen: int [B]."""
        choice = jnp.asarray(choice, jnp.int32)
        new = {n: dataclasses.replace(t, choice=choice) for n, t in self.adapters.items()}
        return dataclasses.replace(self, adapters=new)


def lora(
    config: ModelConfig,
    key: jax.Array,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    rs: bool = False,
    targets: tuple[str, ...] = ("q", "v"),
    layers: tuple[int, ...] | None = None,
    dtype=jnp.float32,
    name: str = "lora",
    where: Where = EVERYWHERE,
) -> LoRA:
    """A fresh adapter: A uniform in +-1/sqrt(in), B zero.

    Args:
        config: of the network it is for.
        key: typed key; each projection draws from its own fold.
        rank: r; alpha: numerator of the scale; rs: alpha / sqrt(r) instead.
        targets: projections, among q, k, v, o, gate, up, down.
        layers: which layers; None for all.

    Raises:
        UserError: an unknown projection, or a rank below 1.
    """
    unknown = [t for t in targets if t not in PROJECTIONS]
    if unknown or rank < 1:
        raise UserError(
            found=f"LoRA targets {targets} with rank {rank}",
            expected=f"projections among {', '.join(PROJECTIONS)} and a rank of at least 1",
            do="correct them",
        )
    shapes = parameter_shapes(config)
    count = config.n_layers if layers is None else len(layers)
    scale = alpha / (math.sqrt(rank) if rs else rank)
    adapters = {}
    for target in targets:
        inputs, outputs = shapes[f"layers.0.{target}.weight"]
        own = jax.random.fold_in(key, zlib.crc32(target.encode()))
        bound = 1 / math.sqrt(inputs)
        adapters[target] = Adapter(
            name=f"{name}/{target}", site=Site(f"proj_{target}", layers),
            a=jax.random.uniform(own, (count, inputs, rank), dtype, -bound, bound),
            b=jnp.zeros((count, rank, outputs), dtype), scale=np.float32(scale), where=where,
        )
    return LoRA(adapters, rank)


def stack_loras(loras: list[LoRA]) -> LoRA:
    """N adapters of one shape as a stack; `for_rows` chooses one for each row.

    Raises:
        UserError: adapters of different targets, layers or ranks.
    """
    kinds = {(l.rank, tuple((n, t.site) for n, t in l.adapters.items())) for l in loras}
    if len(kinds) != 1:
        raise UserError(
            found=f"{len(kinds)} different kinds of adapters",
            expected="the same rank, targets and layers", do="stack like with like",
        )
    adapters = {}
    for name, first in loras[0].adapters.items():
        own = [l.adapters[name] for l in loras]
        adapters[name] = dataclasses.replace(
            first, a=jnp.stack([t.a for t in own], axis=1), b=jnp.stack([t.b for t in own], axis=1),
            scale=jnp.stack([jnp.asarray(t.scale) for t in own]),
        )
    return LoRA(adapters, loras[0].rank)


def merge_lora(network: Decoder, adapter: LoRA) -> Decoder:
    """A network whose weights hold the adapter: W + scale * A B.

    Raises:
        UserError: a stack of adapters, a where-clause or a strength other than
            1: none of those can be put into weights.
    """
    params = network.parameters()
    for target, tap in adapter.adapters.items():
        narrowed = jax.tree.leaves(tap.where) or np.ndim(tap.strength) or tap.strength != 1.0
        narrowed = narrowed or tap.layer_weights is not None
        if tap.a.ndim != 3 or narrowed:
            raise UserError(
                found=f"{tap.name} with a stack, a where-clause or a strength",
                expected="one adapter that holds for every token", do="attach it instead",
            )
        layers = tap.site.layers or range(network.config.n_layers)
        for slot, layer in enumerate(layers):
            name = f"layers.{layer}.{target}.weight"
            weight = params[name]
            dtype = wide(weight.dtype)
            a, b = tap.a[slot].astype(dtype), tap.b[slot].astype(dtype)
            delta = jnp.asarray(tap.scale).astype(dtype) * (a @ b)
            params[name] = (weight.astype(dtype) + delta).astype(weight.dtype)
    merged = build_decoder(network.config, params, network.layout)
    return dataclasses.replace(merged, path=network.path)
