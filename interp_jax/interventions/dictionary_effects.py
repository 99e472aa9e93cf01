"""What each latent does to a metric, to first order, for all latents from one backward pass.

The effect of a latent is its code times the metric's gradient with respect to that code, summed
over tokens: the first-order estimate of the metric as it is minus the metric with the latent at
zero; positive supports (Marks et al. 2024, arXiv 2403.19647, section 2; Kharlapenko et al. 2025,
arXiv 2504.13756, of which this is the zero-baseline form). The network is not changed: every
dictionary is spliced in with its error term, and the gradient is that of the network as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from interp_jax.interventions.dictionary_splice import Splice
from interp_jax.interventions.dictionary_tap import (
    SparseDictionary,
    encoder_input,
    flat,
    whole_code,
)
from interp_jax.interventions.patching import Metric
from interp_jax.interventions.placing import place
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.layers import wide
from interp_jax.models.taps import Context, Record, Tap, tap_class
from interp_jax.runtime.errors import UserError


class LatentEffects(NamedTuple):
    """First-order effects at one splice, in units of the metric, summed over rows and tokens.

    G is the gradient of the metric with respect to what is spliced, y = decode(f) + error, and
    f_j the codes. Together the three are <G, y>, whatever the dictionary.

    Attributes:
        latents: [L, R, F], f_j * <G, row j>; L layers of the splice, R roles (1 without).
        error: [L, R], <G, error>.
        rest: [L, R], <G, decode(0)>: biases, and what a skip path carries.
    """

    latents: jax.Array
    error: jax.Array
    rest: jax.Array


@tap_class
class _Probe(Tap):
    """Reads the raw value, packed, and adds `shift` [layers, B, T, ...] to it."""

    shift: jax.Array | None = None

    def visit(self, value: jax.Array, context: Context, record: Record) -> jax.Array:
        record.read(self.name, context.slot if self.site.layered else None, value)
        if self.shift is None:
            return value
        shift = self.shift[context.slot] if self.site.layered else self.shift[0]
        # Inside a scan a slot beyond the last means: not this layer.
        return value + shift * jnp.asarray(context.gate).astype(value.dtype)


def latent_effects(
    network: Decoder,
    batch: Batch,
    metric: Metric,
    splices: Sequence[Splice],
    *,
    roles: Sequence[int] | None = None,
) -> list[LatentEffects]:
    """Effects of every latent of every splice: one forward and one backward pass for all.

    Args:
        network: with whatever is placed in it.
        batch: what is run.
        metric: logits [B, T, V] in the caller's columns -> a scalar; hashable.
        splices: made by `splice`, with their error terms; `where` says which tokens count.
        roles: sums are kept apart for tokens of each of these roles; None: one sum.

    Returns:
        One `LatentEffects` for each splice.

    Raises:
        UserError: a splice without error term, or with a strength, a delta or weights; or what
            `Splice` raises.
    """
    for one in splices:
        one(network)  # refuses what does not fit, before anything is compiled
        plain = one.error and not one.freeze_error and one.delta is None
        whole = isinstance(one.strength, float) and one.strength == 1.0
        if not plain or not whole or one.layer_weights is not None:
            raise UserError(
                found=f"{one.name} that changes the network, its gradients or its share",
                expected="splices with error=True and neither delta, strength nor weights",
                do="make them with splice(site, dictionary)",
            )
    roles = None if roles is None else tuple(int(role) for role in roles)
    return _effects(network, batch, tuple(splices), metric, roles)


@partial(jax.jit, static_argnames=("metric", "roles"))
def _effects(network, batch: Batch, splices, metric: Metric, roles) -> list[LatentEffects]:
    shapes = jax.eval_shape(lambda: _run(network, batch, splices, None)[1])
    shifts = [
        jnp.zeros(shapes[f"effects/{n}/out"].shape, shapes[f"effects/{n}/out"].dtype)
        for n in range(len(splices))
    ]

    def score(shifts):
        logits, values = _run(network, batch, splices, shifts)
        value = metric(logits)
        if jnp.shape(value) != ():
            raise UserError(
                found=f"a metric of shape {jnp.shape(value)}", expected="a scalar",
                do="take the mean over rows in the metric",
            )
        return value, values

    gradients, values = jax.grad(score, has_aux=True)(shifts)
    results = []
    for n, (one, gradient) in enumerate(zip(splices, gradients, strict=True)):
        out = values[f"effects/{n}/out"]
        masks = _masks(one, batch, roles)
        results.append(_of_layers(one, values.get(f"effects/{n}/in", out), out, gradient, masks))
    return results


def _run(network: Decoder, batch: Batch, splices, shifts):
    """Logits, and every splice's input and output as [layers, B, T, ...]."""
    for n, one in enumerate(splices):
        if one.reads is not None:
            network = place(network, _Probe(f"effects/{n}/in", one.reads))
        shift = None if shifts is None else shifts[n]
        network = place(network, _Probe(f"effects/{n}/out", one.site, shift=shift))
    logits, tape = network(batch)
    values = {name: tape[name] for name in tape if name.startswith("effects/")}
    once = {f"effects/{n}/out" for n, one in enumerate(splices) if not one.site.layered}
    return logits, {name: v[None] if name in once else v for name, v in values.items()}


def _masks(one: Splice, batch: Batch, roles) -> jax.Array:
    """bool [R, B, T]: the tokens that count."""
    mask = one.where(batch)
    if roles is None:
        return mask[None]
    return jnp.stack([mask & (batch.roles == jnp.int8(role)) for role in roles])


def _of_layers(one: Splice, source, out, gradient, masks) -> LatentEffects:
    def layer(item):
        slot, source, out, gradient = item
        own = one.dictionary
        if one.per_layer:
            own = jax.tree.map(lambda a: jnp.asarray(a)[slot], own)
        return _of_rows(own, one.out, flat(source), flat(out), flat(gradient), masks)

    slots = jnp.arange(out.shape[0], dtype=jnp.int32)
    return jax.lax.map(layer, (slots, source, out, gradient))


def _of_rows(dictionary: SparseDictionary, output: int, source, out, gradient, masks):
    """Sums over rows, one row's codes [T, F] at a time."""
    rows = dictionary.written_rows(output)
    dtype = wide(out.dtype)

    def add(total, row):
        source, out, gradient, mask = row  # [T, W] each, and [R, T]
        x = encoder_input(dictionary, source)
        mask = mask.astype(dtype)
        code = whole_code(dictionary, x, output).astype(dtype)
        slope = jnp.einsum("td,fd->tf", gradient, rows.astype(dtype))
        empty = jnp.zeros_like(dictionary.encode(x))
        rest = dictionary.decode(empty, x)
        rest = rest if dictionary.config.outs == 1 else rest[..., output, :]
        told = jnp.einsum("tf,fd->td", code, rows.astype(dtype)) + rest.astype(dtype)
        along = lambda value: mask @ jnp.sum(gradient * value, axis=-1)
        parts = LatentEffects(mask @ (code * slope), along(out - told), along(rest.astype(dtype)))
        return jax.tree.map(jnp.add, total, parts), None

    count = masks.shape[0]
    zeros = jnp.zeros((count,), dtype)
    start = LatentEffects(jnp.zeros((count, rows.shape[0]), dtype), zeros, zeros)
    return jax.lax.scan(add, start, (source, out, gradient, masks.swapaxes(0, 1)))[0]
