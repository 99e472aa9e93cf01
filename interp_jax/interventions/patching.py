"""Activation patching: every cell of site x layer x position, and its gradient estimate.

A cell puts the activation of a clean run into a corrupted run, at one site, layer and token
position, and asks a metric of the logits. All cells of a site are one compiled program: the
layer and the position are data. Beside it stands attribution patching (Nanda 2023; Syed et al.
2023): the metric's slope along the same change, for all cells from one backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from interp_jax.interventions.edits import Add, Replace
from interp_jax.interventions.placing import compose
from interp_jax.interventions.reads import Read
from interp_jax.interventions.where import Where
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.models.sites import Site
from interp_jax.runtime.errors import UserError

#: Logits [B, T, V] in the caller's columns -> the score, a scalar.
Metric = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class PatchingResult:
    """What each cell does to the metric, as the change from the corrupted run's score.

    Attributes:
        exact: float [N, L, P], by running every cell; None when not asked for.
        estimate: float [N, L, P], its first-order estimate; None when not asked for.
        sites: N site names, with heads where a site was narrowed to some.
        layers: L layer numbers.
        positions: P own positions.
        clean, corrupted: the metric of the two runs.
    """

    exact: np.ndarray | None
    estimate: np.ndarray | None
    sites: tuple[str, ...]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    clean: float
    corrupted: float

    @property
    def recovered(self) -> np.ndarray:
        """`exact` as the share of the way from the corrupted score (0) to the clean one (1)."""
        if self.exact is None or self.clean == self.corrupted:
            raise UserError(
                found="no exact cells" if self.exact is None else "two runs of one score",
                expected="exact cells of two runs that the metric tells apart",
                do="run patching_sweep on another pair or metric",
            )
        return self.exact / (self.clean - self.corrupted)


def patching_sweep(
    network: Decoder,
    metric: Metric,
    clean: Batch,
    corrupted: Batch,
    *,
    sites: Sequence[str | Site] = ("resid_post",),
    positions: Sequence[int] | None = None,
    estimate: bool = True,
    chunk: int = 8,
) -> PatchingResult:
    """Runs every cell, and estimates every cell in one backward pass.

    Args:
        network: scanned layers compile fastest.
        metric: jax-traceable and hashable: pass one function, not a new lambda for each
            call, or the programs are compiled again.
        clean, corrupted: rows of equal lengths, aligned token by token.
        sites: sites of every block with a value for each token; heads may be named
            (`head_out.heads[3]`). With layers, only those are run (the same for all).
        positions: own positions from 0; None for all of the longest row.
        estimate: whether to estimate too.
        chunk: how many cells run side by side; memory grows with it.

    Raises:
        UserError: batches that are not aligned, or a site without layers or tokens.
    """
    sites, layers = _resolve(network, sites)
    positions = _positions(clean, corrupted, positions)
    scores = [float(_score(network, batch, metric)) for batch in (clean, corrupted)]
    exact = np.zeros((len(sites), len(layers), len(positions)))
    cells = (
        np.repeat(np.arange(len(layers), dtype=np.int32), len(positions)),
        np.tile(np.asarray(positions, np.int32), len(layers)),
    )
    for n, site in enumerate(sites):
        source = _activations(network, _packed(clean), (site,))[0]
        found = _run_cells(network, corrupted, source, cells, metric, site, chunk)
        exact[n] = np.asarray(found, np.float64).reshape(exact.shape[1:]) - scores[1]
    slopes = _estimates(network, metric, clean, corrupted, sites, positions) if estimate else None
    return PatchingResult(
        exact, slopes, tuple(map(_label, sites)), layers, positions, scores[0], scores[1]
    )


def attribution_patching(
    network: Decoder,
    metric: Metric,
    clean: Batch,
    corrupted: Batch,
    *,
    sites: Sequence[str | Site] = ("resid_post",),
    positions: Sequence[int] | None = None,
) -> PatchingResult:
    """Estimates every cell without running any: two forward passes and one backward.

    Arguments and errors as in `patching_sweep`; `exact` is None.
    """
    sites, layers = _resolve(network, sites)
    positions = _positions(clean, corrupted, positions)
    scores = [float(_score(network, batch, metric)) for batch in (clean, corrupted)]
    slopes = _estimates(network, metric, clean, corrupted, sites, positions)
    return PatchingResult(
        None, slopes, tuple(map(_label, sites)), layers, positions, scores[0], scores[1]
    )


@partial(jax.jit, static_argnames=("metric",))
def _score(network: Decoder, batch: Batch, metric: Metric) -> jax.Array:
    return _scalar(metric(network(batch)[0]))


@partial(jax.jit, static_argnames=("sites",))
def _activations(network: Decoder, batch: Batch, sites: tuple[Site, ...]) -> list[jax.Array]:
    """[L, B, T, ...] of each site, in packed columns, which are own positions."""
    looks = compose(*(Read(f"patching/{n}", site) for n, site in enumerate(sites)))
    tape = looks(network)(batch, logits_at="none")[1]
    return [tape[f"patching/{n}"] for n in range(len(sites))]


@partial(jax.jit, static_argnames=("metric", "site", "chunk"))
def _run_cells(network, batch, source, cells, metric, site: Site, chunk: int) -> jax.Array:
    """[cells]; the metric with each cell patched."""
    if site.heads is not None:  # a read keeps the named heads only, an edit wants all of them
        whole = jnp.zeros((*source.shape[:3], _heads(network, site), source.shape[-1]))
        source = whole.astype(source.dtype).at[..., np.asarray(site.heads), :].set(source)

    def one(cell):
        layer, position = cell
        edit = Replace(
            "patching", site, Where(positions=position[None]), vector=source, per_layer=True,
            layer_weights=jax.nn.one_hot(layer, source.shape[0], dtype=source.dtype),
        )  # fmt: skip
        return _scalar(metric(edit(network)(batch)[0]))

    return jax.lax.map(one, cells, batch_size=chunk)


def _estimates(network, metric, clean, corrupted, sites, positions) -> np.ndarray:
    source = _activations(network, _packed(clean), sites)
    current = _activations(network, _packed(corrupted), sites)
    shape = lambda site, a: a.shape if site.heads is None else (
        *a.shape[:3], _heads(network, site), a.shape[-1]
    )  # fmt: skip
    zeros = [jnp.zeros(shape(s, a), a.dtype) for s, a in zip(sites, current, strict=True)]
    slopes = _slopes(zeros, network, corrupted, metric, sites)
    cells = []
    for site, slope, new, old in zip(sites, slopes, source, current, strict=True):
        if site.heads is not None:
            slope = slope[..., np.asarray(site.heads), :]
        change = slope * (new - old)
        per_token = jnp.sum(change, axis=(1, *range(3, change.ndim)))
        cells.append(np.asarray(per_token[:, np.asarray(positions, np.int32)], np.float64))
    return np.stack(cells)


@partial(jax.jit, static_argnames=("metric", "sites"))
def _slopes(shifts, network, batch, metric, sites):
    """Gradients of the metric with respect to every site's value, from one backward pass."""

    def score(shifts):
        edits = compose(*(
            Add(f"patching/{n}", site, vector=shift, per_layer=True)
            for n, (site, shift) in enumerate(zip(sites, shifts, strict=True))
        ))  # fmt: skip
        return _scalar(metric(edits(network)(batch)[0]))

    return jax.grad(score)(shifts)


def _resolve(network: Decoder, sites) -> tuple[tuple[Site, ...], tuple[int, ...]]:
    made = []
    for site in sites:
        site = Site.parse(site) if isinstance(site, str) else site
        if not site.layered or site.axes[:2] != "BT":
            raise UserError(
                found=f"site {site}", expected="a site of every block with a value for each token",
                do="patch resid_post, attn_out, mlp_out, head_out or the like",
            )
        layers = tuple(range(network.config.n_layers)) if site.layers is None else site.layers
        made.append(dataclasses.replace(site, layers=layers))
    kinds = {site.layers for site in made}
    if len(kinds) != 1:
        raise UserError(
            found=f"{len(kinds)} different sets of layers", expected="one for all sites",
            do="name the same layers at every site, or none",
        )
    return tuple(made), kinds.pop()


def _positions(clean: Batch, corrupted: Batch, positions) -> tuple[int, ...]:
    lengths = np.asarray(clean.lengths), np.asarray(corrupted.lengths)
    if clean.tokens.shape != corrupted.tokens.shape or not np.array_equal(*lengths):
        raise UserError(
            found=f"rows of lengths {lengths[0].tolist()} and {lengths[1].tolist()}",
            expected="clean and corrupted rows aligned token by token",
            do="choose prompts that differ in words but not in length",
        )
    longest = int(lengths[0].max())
    chosen = tuple(range(longest)) if positions is None else tuple(int(p) for p in positions)
    if not chosen or min(chosen) < 0 or max(chosen) >= longest:
        raise UserError(
            found=f"positions {list(chosen)}", expected=f"positions from 0 to {longest - 1}",
            do="count from the row's first token",
        )
    return chosen


def _packed(batch: Batch) -> Batch:
    return dataclasses.replace(batch, order=None)


def _heads(network: Decoder, site: Site) -> int:
    config = network.config
    return config.n_kv_heads if "K" in site.axes else config.n_heads


def _label(site: Site) -> str:
    return str(dataclasses.replace(site, layers=None))


def _scalar(score: jax.Array) -> jax.Array:
    if jnp.shape(score) != ():
        raise UserError(
            found=f"a metric of shape {jnp.shape(score)}", expected="a scalar",
            do="take the mean over rows in the metric",
        )
    return score
