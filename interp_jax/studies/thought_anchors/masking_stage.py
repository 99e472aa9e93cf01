"""The masking graph of a run (`--masking_graph`), made in the stage that looks inside the model.

    masking.npz    the matrices
    masking.json   the same as a list of edges, the strongest first, for other tools

An edge leads from a deleted sentence to a later one. `mean`, `total` and `first` are KLs in nats
over the later sentence's tokens, `cleaned` is `mean` less the mean of all edges into that sentence.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from interp_jax.runtime.progress import Progress
from interp_jax.studies.thought_anchors.asking import Trace
from interp_jax.studies.thought_anchors.masking_graph import MaskingGraph, masking_graph
from interp_jax.studies.thought_anchors.stages import Work
from interp_jax.studies.thought_anchors.suppression import SOURCES_AT_ONCE

MASKING, EDGES = "masking.npz", "masking.json"
_MATRICES = ("mean", "total", "first")


def masking_stage(work: Work, trace: Trace, *, make: bool) -> MaskingGraph | None:
    """The graph; None where it is not asked for, or not there and not to be made."""
    config, path = work.config, work.workdir / MASKING
    if not config.masking_graph:
        return None
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return MaskingGraph(*(kept[name] for name in _MATRICES))
    if not make:
        return None
    count = len(trace.sentences)
    with Progress(count, "masking", unit="sentences", log_every=config.log_every) as bar:
        graph = masking_graph(
            work.lm.network, trace, at_once=min(SOURCES_AT_ONCE, config.batch_size),
            on_progress=bar.update,
        )
    work.workdir.write_json(EDGES, edges(graph))
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(graph, name) for name in _MATRICES})
    work.workdir.write_bytes(MASKING, buffer.getvalue())
    return graph


def edges(graph: MaskingGraph) -> list[dict[str, Any]]:
    """One record per edge that is defined, by falling `mean`; ties by source, then target."""
    cleaned = graph.cleaned()
    targets, sources = np.nonzero(np.isfinite(graph.mean))
    found = [
        {
            "source": int(source), "target": int(target), "mean": float(graph.mean[target, source]),
            "total": float(graph.total[target, source]),
            "first": float(graph.first[target, source]),
            "cleaned": float(cleaned[target, source]),
        }
        for target, source in zip(targets, sources, strict=True)
    ]
    return sorted(found, key=lambda edge: (-edge["mean"], edge["source"], edge["target"]))
