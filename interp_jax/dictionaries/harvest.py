"""Activations of one or more networks on the same tokens, as rows that a dictionary trains on.

Everything happens inside the compiled step: the layers above the last one that is read are not
run, and nothing but the rows comes out. A row's inputs stand in the order network, then site, then
layer: with two networks and one layer the first input is the first network's, as in a crosscoder
between a base and a chat model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.dictionaries.replaced_tokens import Replacements, replaced
from interp_jax.interventions.placing import check_site
from interp_jax.interventions.reads import Read
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.models.stack import Stack
from interp_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Harvest:
    """What is read, and at which tokens. Static: equal ones share compiled programs.

    Attributes:
        sites: of the inputs, in every network, e.g. `("resid_post[13]",)`. Each layer of a site is
            one input, and all have the same width; heads are laid side by side.
        targets: of what is to be reconstructed, for a transcoder; none: the inputs.
        skip_first: so many first tokens of each row are left out (a row's own tokens count).
        exclude_tokens: ids that are left out wherever they stand, such as the BOS token.
        exclude_roles: roles that are left out (`models.roles`).
        dtype: of the rows. Activations are computed as the network computes them.
        replace_tokens: (old id, new id) pairs applied to what one network reads, the base model,
            which does not know the chat model's template tokens (`replaced_tokens`). What is placed
            in that network sees the new ids too.
        replaced_network: its place among the networks.

    Raises:
        UserError: no site, or one whose value is no vector for each token.
    """

    sites: tuple[Site, ...]
    targets: tuple[Site, ...] = ()
    skip_first: int = 0
    exclude_tokens: tuple[int, ...] = ()
    exclude_roles: tuple[int, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    replace_tokens: Replacements = ()
    replaced_network: int = 0

    def __post_init__(self):
        for name in ("sites", "targets"):
            sites = (s if isinstance(s, Site) else Site.parse(s) for s in getattr(self, name))
            object.__setattr__(self, name, tuple(sites))
        if not self.sites:
            raise UserError(found="no sites", expected="at least one", do="say what to read")
        for site in (*self.sites, *self.targets):
            if "S" in site.axes or "V" in site.axes or site.name.startswith("proj_"):
                raise UserError(
                    found=f"site {site} in a harvest",
                    expected="a site with a vector for each token",
                    do="use the stream, an MLP or an attention site",
                )


class Harvested(NamedTuple):
    """Rows of a batch [B, T], row b*T + t for token t of row b, the caller's columns.

    Attributes:
        x: [B*T, M, D], also at M = 1.
        target: [B*T, O, D'], or None where the inputs are reconstructed.
    """

    x: jax.Array
    target: jax.Array | None


def keep_mask(harvest: Harvest, tokens, valid, roles):
    """Which tokens become rows: bool [B, T], numpy or jax as the arguments are.

    Padding, the first tokens of each row, and excluded tokens and roles are left out.

    Args:
        harvest: what is left out.
        tokens: int [B, T].
        valid: bool [B, T].
        roles: int [B, T].
    """
    array: Any = jnp if isinstance(tokens, jax.Array) else np
    own = array.cumsum(valid, axis=1, dtype=np.int32)  # 1 for a row's first token
    mask = valid & (own > harvest.skip_first)
    for values, excluded in (
        (tokens, harvest.exclude_tokens), (roles, harvest.exclude_roles)
    ):  # fmt: skip
        for one in excluded:
            mask = mask & (values != np.asarray(one, values.dtype))
    return mask


def harvest(networks: Sequence[Decoder], batch: Batch, what: Harvest) -> Harvested:
    """The rows of a batch. Pure; call it under `jit` with `what` static.

    Padding has rows too (of no meaning); `keep_mask` says which are worth keeping.

    Args:
        networks: one or more, with whatever interventions are placed in them.
        batch: rows of tokens for all of them.
        what: what is read.

    Raises:
        UserError: a layer that a network lacks, widths that differ, or replaced tokens for a
            network that is not there.
    """
    if what.replace_tokens and not 0 <= what.replaced_network < len(networks):
        raise UserError(
            found=f"replaced tokens for network {what.replaced_network} of {len(networks)}",
            expected=f"a network from 0 to {len(networks) - 1}",
            do="correct replaced_network, or give the networks that are compared",
        )
    other = replaced(batch, what.replace_tokens)
    reads = [
        _read(network, other if place == what.replaced_network else batch, what)
        for place, network in enumerate(networks)
    ]
    dtype = jnp.dtype(what.dtype)
    stacked = lambda parts: _stacked([p for part in parts for p in part]).astype(dtype)
    x = stacked(inputs for inputs, _ in reads)
    return Harvested(x, stacked(targets for _, targets in reads) if what.targets else None)


def row_shapes(networks: Sequence[Decoder], what: Harvest) -> dict[str, jax.ShapeDtypeStruct]:
    """What one row is: `x` [M, D] and, for a transcoder, `target` [O, D'].

    Raises:
        UserError: as `harvest`.
    """
    batch = jax.eval_shape(lambda: Batch.make(jnp.zeros((1, 1), jnp.int32)))
    shapes = jax.eval_shape(lambda n, b: harvest(n, b, what), tuple(networks), batch)
    cut = lambda one: jax.ShapeDtypeStruct(one.shape[1:], one.dtype)
    return {name: cut(one) for name, one in shapes._asdict().items() if one is not None}


def layers_needed(network: Decoder, sites: Sequence[Site]) -> int:
    """How many layers, from the first, have to run for these sites."""
    every, needed = network.config.n_layers, 0
    for site in sites:
        check_site(network, site)
        if not site.layered:
            needed = max(needed, 0 if site.name == "embed" else every)
        else:
            needed = max(needed, every if site.layers is None else 1 + max(site.layers))
    return needed


def lower_layers(network: Decoder, layers: int) -> Decoder:
    """The network without what comes after its first `layers` layers.

    In a scan the cut is made after a whole repeat of the layer pattern. The result serves reads
    below the cut only: its logits are of no meaning.
    """
    segments, first = [], 0
    for segment in network.segments:
        if first >= layers:
            break
        if isinstance(segment, Stack):
            period = len(segment.pattern)
            repeats = min(-(-(layers - first) // period), segment.repeats)
            segment = segment.first(repeats)
            first += repeats * period
        else:
            first += 1
        segments.append(segment)
    return dataclasses.replace(network, segments=tuple(segments))


def _read(network: Decoder, batch: Batch, what: Harvest):
    """Lists of [B, T, ...], one for each input, and one for each target."""
    sites = (*what.sites, *what.targets)
    network = lower_layers(network, layers_needed(network, sites))
    names = [f"harvest_{place}" for place in range(len(sites))]
    for name, site in zip(names, sites, strict=True):
        network = Read(name=name, site=site)(network)
    _, tape = network(batch, logits_at="none")
    found = [
        list(tape[name]) if site.layered else [tape[name]]
        for name, site in zip(names, sites, strict=True)
    ]
    flat = lambda groups: [one for group in groups for one in group]
    return flat(found[: len(what.sites)]), flat(found[len(what.sites) :])


def _stacked(parts: list[jax.Array]) -> jax.Array:
    """[B, T, ...] each -> [B*T, parts, D]."""
    rows = [part.reshape(part.shape[0] * part.shape[1], -1) for part in parts]
    if len(widths := {row.shape[1] for row in rows}) > 1:
        raise UserError(
            found=f"activations of widths {sorted(widths)}",
            expected="one width, so that they can be stacked",
            do="read sites and networks of one width, or train one dictionary for each",
        )
    return jnp.stack(rows, axis=1)
