"""Directions: vectors with their site, scale convention and provenance, made, saved and loaded.

A saved direction is one safetensors file. Its header says which weights it was made on, so a
vector for another model is refused instead of steering it somewhere.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Literal

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as tensor_bytes

from interp_jax.interventions.edits import Add, require_finite
from interp_jax.interventions.placing import check_site
from interp_jax.interventions.reads import Mean, Read, Reduction
from interp_jax.interventions.run import run
from interp_jax.interventions.where import EVERYWHERE, Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.runtime.atomic import atomic_write_bytes
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.provenance import Provenance, hash_arrays

Scale = Literal["activation", "unit"]
_KEY = "interp_jax.direction"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Direction:
    """A vector in a network's activations.

    Attributes:
        vector: float32, the site's width [D] when the site names one layer; else [L, D], one
            row for each of its layers.
        site: where it was read and is meant to be added.
        scale: `activation`: in units of the activation, so a strength of 1 moves it by the
            difference it stands for; `unit`: each row has Euclidean norm 1.
        provenance: of what it was made on and from; `provenance.weights` is compared on loading.
    """

    vector: np.ndarray
    site: Site
    scale: Scale
    provenance: Provenance

    def __post_init__(self):
        vector = np.asarray(self.vector, np.float32)
        object.__setattr__(self, "vector", vector)
        require_finite("a direction", vector=vector)
        layers = self.site.layers
        shape = vector.shape[:-1]
        single = not self.site.layered or (layers is not None and len(layers) == 1)
        expected = () if single else None if layers is None else (len(layers),)
        if vector.ndim not in (1, 2) or (expected is not None and shape != expected):
            raise UserError(
                found=f"a vector of shape {vector.shape} for {self.site}",
                expected="[D], or [layers, D] for a site of several layers",
                do="give one row for each layer of the site",
            )

    def unit(self) -> Direction:
        """The same direction with rows of norm 1.

        Raises:
            UserError: a row is zero.
        """
        norms = np.linalg.norm(self.vector, axis=-1, keepdims=True)
        if np.any(norms == 0):
            raise UserError(
                found="a zero vector", expected="a direction", do="use other contrast pairs"
            )
        return dataclasses.replace(self, vector=self.vector / norms, scale="unit")

    def add(self, strength=1.0, *, name: str | None = None, where: Where = EVERYWHERE) -> Add:
        """Steering along it: `x + strength * vector`, at its own site."""
        return Add(
            name or f"direction:{self.site}", self.site, vector=self.vector, strength=strength,
            where=where, per_layer=self.vector.ndim == 2,
        )  # fmt: skip

    def save(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes the file whole or not at all. Returns its path."""
        fields = {
            "format": _FORMAT, "site": str(self.site), "scale": self.scale,
            "provenance": self.provenance.to_json(),
        }  # fmt: skip
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        atomic_write_bytes(path, tensor_bytes({"vector": self.vector}, metadata={_KEY: text}))
        return pathlib.Path(path)


def weights_hash(network: Decoder) -> str:
    """SHA-256 of a network's parameters: names, dtypes, shapes and values."""
    return hash_arrays(network.parameters())


def from_contrast_pairs(
    network: Decoder,
    positive: Batch | Iterable[Batch],
    negative: Batch | Iterable[Batch],
    site: str | Site,
    provenance: Provenance,
    *,
    reduce: Reduction | None = None,
    where: Where = EVERYWHERE,
) -> Direction:
    """The difference of means: the mean over positive rows minus that over negative rows.

    Args:
        network: what to read, with whatever is placed in it.
        positive, negative: a batch, or batches of any sizes; every row counts the same, and
            a row in which `where` meets no token is refused.
        site: with a width axis and no head axis, e.g. `resid_post[12]`; without layers, one
            row of the vector for each layer.
        provenance: of the network and the pairs; the site is filled in here.
        reduce: from a row's tokens to one vector: `Mean()` (default) or `Last()`.
        where: which tokens.

    Raises:
        UserError: no rows, a row without a token asked for, or a site without a plain width.
    """
    site = Site.parse(site) if isinstance(site, str) else site
    if site.axes not in ("BTD", "BTF"):
        raise UserError(
            found=f"site {site}", expected="one with a single vector for each token",
            do="use resid_post, attn_out, mlp_out or the like",
        )
    check_site(network, site)
    look = Read("direction", site, where, reduce or Mean())
    means = [_mean(network, batches, look) for batches in (positive, negative)]
    vector = (means[0] - means[1]).astype(np.float32)
    if site.layers is not None and len(site.layers) == 1:
        vector = vector[0]
    return Direction(vector, site, "activation", dataclasses.replace(provenance, site=str(site)))


def load_direction(
    path: str | os.PathLike, network: Decoder, weights: str | None = None
) -> Direction:
    """Reads a saved direction for a network.

    Args:
        network: what it will be used on.
        weights: the hash that the network's provenance gives its weights; None for
            `weights_hash(network)`. It must be of the kind the direction was saved with.

    Raises:
        UserError: no such file, no direction in it, one made on other weights, or one whose
            site or width this network does not have.
    """
    direction = _parse(pathlib.Path(path))
    here = weights_hash(network) if weights is None else weights
    made = direction.provenance
    if made.weights != here:
        raise UserError(
            found=f"a direction made on {made.model} (weights {made.weights[:12]}) in {path}",
            expected=f"one for these weights ({here[:12]})",
            do="load the model it was made on, or make the direction again on this one",
        )
    check_site(network, direction.site)
    config = network.config
    width = config.mlp_width if direction.site.axes == "BTF" else config.width
    if direction.vector.shape[-1] != width:
        raise UserError(
            found=f"a direction of width {direction.vector.shape[-1]} in {path}",
            expected=f"width {width} at {direction.site}", do="make it again on this model",
        )
    return direction


def _parse(path: pathlib.Path) -> Direction:
    try:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        fields = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        vector = parse_tensors(data)["vector"]
        if fields["format"] != _FORMAT or fields["scale"] not in ("activation", "unit"):
            raise ValueError(f"format {fields['format']}, scale {fields['scale']!r}")
    except OSError as error:
        raise UserError(
            found=f"no readable file {path} ({error.strerror})", expected="a saved direction",
            do="check the path",
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            found=f"{path}, which holds no direction or is damaged ({error!r})",
            expected="a file written by Direction.save", do="make or fetch it again",
        ) from error
    return Direction(
        vector, Site.parse(fields["site"]), fields["scale"],
        Provenance.from_json(fields["provenance"]),
    )  # fmt: skip


def _mean(network: Decoder, batches, look: Read) -> np.ndarray:
    """[L, D] (or [D]) over all rows, summed in float64."""
    total, rows = 0.0, 0
    for batch in [batches] if isinstance(batches, Batch) else batches:
        _, tape = run(network, batch, look, logits_at="none", allow_untouched=True)
        tape = jax.device_get(tape)
        touched = tape[f"touched/{look.name}"]
        if empty := np.flatnonzero(touched == 0).tolist():
            raise UserError(
                found=f"rows {empty[:8]} without a token that `where` asks for",
                expected="at least one in each row", do="check the where-clause",
            )
        value = np.asarray(tape[look.name], np.float64)
        axis = 1 if look.site.layered else 0
        total, rows = total + value.sum(axis=axis), rows + value.shape[axis]
    if rows == 0:
        raise UserError(found="no rows", expected="at least one on each side", do="add prompts")
    return total / rows
