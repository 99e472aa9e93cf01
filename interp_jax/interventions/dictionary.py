"""Dictionaries as interventions: splice one in, steer, clamp or ablate its latents, read codes.

    edited = compose(
        splice("resid_post[12]", sae, error=False),
        clamp_latent("resid_post[20]", other, latent=417, value=8.0),
        read_latents("resid_post[20]", other, reduce=TopK(10)),
    )(network)

All take `where`, `strength` ([] or [B], 0 is the base model to the bit), `layer_weights` and
`per_layer`, as other edits do. `reads` names an earlier site of the same block from which a
transcoder encodes: `splice("mlp_out[3]", transcoder, reads="mlp_in", error=False)` puts it in
place of the MLP. At sites with heads, heads stand side by side.

A crosscoder has several inputs and outputs. `output` says which of its rows are written. Its
code can be made inside one network only when the encoder reads one activation
(`config.encoder_inputs`); otherwise steering is what is left, and the rest is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.dictionary_latents import (
    ClampLatents,
    SteeringUnits,
    SteerLatents,
)
from interp_jax.interventions.dictionary_reads import ReadLatents
from interp_jax.interventions.dictionary_splice import Splice
from interp_jax.interventions.dictionary_tap import CodeUnits, SparseDictionary
from interp_jax.interventions.reads import AsIs, Reduction, TopK
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.sites import Site
from interp_jax.runtime.errors import UserError


def splice(
    site: str | Site,
    dictionary: SparseDictionary,
    error: bool = True,
    *,
    freeze_error: bool = False,
    delta: jax.Array | None = None,
    reads: str | Site | None = None,
    name: str | None = None,
    **options: Any,
) -> Splice:
    """The dictionary in place of an activation, or beside it with the error term kept.

    Args:
        site: what is written.
        error: False: the network goes on with decode(code + delta). True: with the activation
            itself, same bits, plus what `delta` adds; the latents are then nodes that gradients
            know, see `dictionary_splice`.
        freeze_error, delta: as in `Splice`.
        reads: what the encoder reads, when that is an earlier site of the block.
        name: of the touched count; default `splice:SITE`.
        options: `where`, `strength`, `layer_weights`, `per_layer`, `output`.
    """
    site = _site(site)
    return Splice(
        name or f"splice:{site}", site, dictionary=dictionary, error=error,
        freeze_error=freeze_error, delta=delta, reads=_source(reads, site), **options,
    )  # fmt: skip


def steer_latent(
    site: str | Site,
    dictionary: SparseDictionary,
    latent: int | Sequence[int] | jax.Array,
    strength: jax.Array | float = 1.0,
    *,
    amount: jax.Array | float = 1.0,
    units: SteeringUnits = "code",
    name: str | None = None,
    **options: Any,
) -> SteerLatents:
    """Adds `strength * amount * decoder row`, whatever the latent's code is. Encodes nothing.

    Args:
        latent: one; or several, as in `LatentsEdit.latents`, whose rows are summed.
        strength: [] or [B].
        amount: [] for all; else [P], [B, P] or [B, N, P] by own position. For one latent P may
            be left out.
        units: of strength * amount: `code` (times the row), `scaled` (times row / s), `unit`
            (times the row's direction: a length in the activation's own space).
        options: `where`, `layer_weights`, `per_layer`, `output`.
    """
    site = _site(site)
    latents, amount = _operands(latent, amount, options)
    return SteerLatents(
        name or f"steer_latent:{site}", site, dictionary=dictionary, latents=latents,
        value=amount, strength=strength, units=_one_of(units, SteeringUnits), **options,
    )  # fmt: skip


def clamp_latent(
    site: str | Site,
    dictionary: SparseDictionary,
    latent: int | Sequence[int] | jax.Array,
    value: jax.Array | float,
    *,
    units: CodeUnits = "code",
    reads: str | Site | None = None,
    name: str | None = None,
    **options: Any,
) -> ClampLatents:
    """Sets the code of latents to `value`; other latents and the error stay as they are.

    Args:
        latent: one; or several, as in `LatentsEdit.latents`.
        value: [] for all; else [P], [B, P] or [B, N, P] by own position. For one latent P may
            be left out.
        units: of the value: `code`, or `scaled` (what dashboards show).
        reads: as in `splice`.
        options: `where`, `strength`, `layer_weights`, `per_layer`, `output`.
    """
    site = _site(site)
    latents, value = _operands(latent, value, options)
    return ClampLatents(
        name or f"clamp_latent:{site}", site, dictionary=dictionary, latents=latents, value=value,
        units=_one_of(units, CodeUnits), reads=_source(reads, site), **options,
    )  # fmt: skip


def ablate_latent(
    site: str | Site,
    dictionary: SparseDictionary,
    latents: int | Sequence[int] | jax.Array,
    *,
    name: str | None = None,
    **options: Any,
) -> ClampLatents:
    """Takes the contribution of latents away, and nothing else: `clamp_latent` at 0.

    Args:
        latents: one, several, or a mask of those that go, bool [F] or [B, F].
        options: as for `clamp_latent`.
    """
    name = name or f"ablate_latent:{_site(site)}"
    return clamp_latent(site, dictionary, latents, 0.0, name=name, **options)


def read_latents(
    site: str | Site,
    dictionary: SparseDictionary,
    *,
    latents: int | Sequence[int] | jax.Array | None = None,
    reduce: Reduction | None = None,
    units: CodeUnits = "code",
    where: Where = EVERYWHERE,
    name: str | None = None,
    **options: Any,
) -> ReadLatents:
    """Puts codes on the tape.

    Args:
        site: what the encoder reads.
        latents: which, int [P] or [B, P]; None for all F.
        reduce: see `reads`, and `Max`, `TopLatents` in `dictionary_reads`. Default: the 16
            largest at each token, [B, T, 2, 16]; with `latents`, their codes [B, T, P]. All of
            [B, T, F] only for `AsIs()`.
        units: `code`, or `scaled` (what dashboards show).
        options: `per_layer`, `output`.
    """
    site = _site(site)
    if latents is not None:
        latents = _latents(latents)
        if latents.dtype == np.bool_:
            raise UserError(
                found="a mask of latents to read", expected="their numbers",
                do="pass jnp.flatnonzero(mask), or read all and reduce",
            )
    if reduce is None:
        few = min(16, dictionary.config.latents)
        reduce = TopK(few) if latents is None else AsIs()
    return ReadLatents(
        name or f"read_latents:{site}", site, dictionary=dictionary, where=where, reduce=reduce,
        latents=latents, units=_one_of(units, CodeUnits), **options,
    )  # fmt: skip


def _site(site: str | Site) -> Site:
    return Site.parse(site) if isinstance(site, str) else site


def _source(reads: str | Site | None, site: Site) -> Site | None:
    """`reads` at the layers of `site`, which need not be said twice."""
    if reads is None:
        return None
    reads = _site(reads)
    return Site(reads.name, site.layers, reads.heads) if reads.layers is None else reads


def _latents(latents) -> jax.Array | np.ndarray:
    array = latents if hasattr(latents, "dtype") else np.asarray(latents)
    if array.dtype == np.int64:
        array = array.astype(np.int32)
    return array[None] if array.ndim == 0 else array


def _operands(latents, value, options: dict[str, Any]) -> tuple[Any, Any]:
    """Latents as at least [P], and a value for each of them."""
    alone = np.ndim(latents) == 0
    latents = _latents(latents)
    value = value if hasattr(value, "dtype") else np.asarray(value, np.float32)
    if value.ndim == 0:
        lead = latents.shape[:1] if options.get("per_layer") else ()
        return latents, jnp.broadcast_to(value, (*lead, latents.shape[-1]))
    return latents, value[..., None] if alone else value


def _one_of(units: str, allowed) -> str:
    if units not in get_args(allowed):
        raise UserError(
            found=f"units {units!r}", expected="one of " + ", ".join(get_args(allowed)),
            do="choose what the number counts",
        )
    return units
