"""The verbs: short constructors for every intervention.

    edited = compose(
        add("resid_post[12]", vector, strength=4.0),
        read("resid_post[12]", reduce=Norm()),
    )(network)
    logits, tape = edited(batch)

A site is a `Site` or its text. The result is a frozen pytree: call it on a
network, or pass it through `jit`, `grad` and `vmap` as data.
"""

from __future__ import annotations

import jax
import numpy as np

from interp_jax.interventions.edits import Add, ProjectOut, Replace, Scale, SetComponent
from interp_jax.interventions.placing import Compose, compose
from interp_jax.interventions.reads import AsIs, Read, Reduction
from interp_jax.interventions.suppress import SuppressAttention
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.sites import Site


def _site(site: str | Site) -> Site:
    return Site.parse(site) if isinstance(site, str) else site


def _array(vector) -> jax.Array | np.ndarray:
    """Lists become float32 arrays; arrays stay what they are."""
    return vector if hasattr(vector, "shape") else np.asarray(vector, np.float32)


def read(
    site: str | Site, *, reduce: Reduction | None = None, where: Where = EVERYWHERE,
    name: str | None = None,
) -> Read:
    """Puts a site on the tape under `name` (default: the site's text).

    Args:
        reduce: what is kept, see `reads`; default the whole value.
        where: which tokens.
    """
    site = _site(site)
    return Read(name or str(site), site, where, reduce or AsIs())


def add(site: str | Site, vector: jax.Array, *, name: str | None = None, **options) -> Add:
    """Steering: `x + strength * vector`. Options and shapes: see `edits`."""
    site = _site(site)
    return Add(name or f"add:{site}", site, vector=_array(vector), **options)


def replace(site: str | Site, vector: jax.Array, *, name: str | None = None, **options) -> Replace:
    """Patching: the vector in place of the value. Options and shapes: see `edits`."""
    site = _site(site)
    return Replace(name or f"replace:{site}", site, vector=_array(vector), **options)


def project_out(
    site: str | Site, vector: jax.Array, *, name: str | None = None, **options
) -> ProjectOut:
    """Removes the component along the vector. Options and shapes: see `edits`."""
    site = _site(site)
    return ProjectOut(name or f"project_out:{site}", site, vector=_array(vector), **options)


def set_component(
    site: str | Site, vector: jax.Array, target, *, name: str | None = None, **options
) -> SetComponent:
    """Sets the component along the unit vector to `target`. Options: see `edits`."""
    site = _site(site)
    return SetComponent(
        name or f"set_component:{site}", site, vector=_array(vector), target=target, **options
    )


def scale(site: str | Site, factor, *, name: str | None = None, **options) -> Scale:
    """Multiplies by `factor`; 0 zeroes. Options and shapes: see `edits`."""
    site = _site(site)
    return Scale(name or f"scale:{site}", site, factor=factor, **options)


def ablate_heads(heads: dict[int, tuple[int, ...]], *, strength=1.0, **options) -> Compose:
    """Zeroes heads before the output projection.

    Args:
        heads: layer -> heads. An empty dictionary changes nothing.
    """
    return compose(
        *(
            scale(
                Site("head_out", (layer,), tuple(own)), 0.0, strength=strength,
                name=f"ablate_heads/{layer}", **options,
            )
            for layer, own in heads.items() if own
        )
    )


def suppress_attention(
    keys: Where, *, layers: tuple[int, ...] | None = None, heads: tuple[int, ...] | None = None,
    name: str = "suppress_attention", **options,
) -> SuppressAttention:
    """Takes attention to `keys` away, for the queries of `where`. See `suppress`."""
    return SuppressAttention(name, Site("attn_scores", layers, heads), keys, **options)
