"""How a dictionary is trained: coefficients (traced) and structure (static)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal

import jax

Number = float | int | jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "sparsity",
        "auxiliary",
        "dead_after",
        "threshold_start",
        "threshold_decay",
        "k_start",
        "k_steps",
    ],
    meta_fields=[
        "squared",
        "bandwidth",
        "auxiliary_k",
        "decode",
        "most_k",
        "unit_norm",
    ],
)
@dataclasses.dataclass(frozen=True)
class Recipe:
    """The terms of the loss. A pytree: a sweep over the coefficients compiles once.

    Attributes:
        sparsity: mu: of the scaled L1 term (`relu`, `gated`) or the L0 term (`jumprelu`).
        auxiliary: alpha of the auxiliary loss of `topk` and `batch_topk`; 1/32 in the paper.
        dead_after: tokens without being kept after which a latent is dead.
        threshold_start: the threshold moves in steps above this one.
        threshold_decay: of its moving average.
        k_start: k at step 0 while annealing.
        k_steps: steps until k is reached; 0: k from the start.
        squared: the reconstruction term is the squared norm of the error, not the norm.
        bandwidth: of the straight-through window of `jumprelu`.
        auxiliary_k: most dead latents per row in the auxiliary loss; None: half the width.
        decode: `dense` multiplies matrices; `sparse` works at the kept latents only. Same
            numbers. Sparse is for `topk` and `batch_topk` with one code for all outputs.
        most_k: the largest k there will be, for which the sparse path has room; a larger one is
            cut to it. With `dense` the search for the edge begins near it, exact in any case.
            None: F.
        unit_norm: decoder rows are held at length 1, and the gradient along them is taken out
            before the optimiser (see `unit_norm`); start with `with_unit_rows`.
    """

    sparsity: Number = 0.0
    auxiliary: Number = 1 / 32
    dead_after: Number = 10_000_000
    threshold_start: Number = 1000
    threshold_decay: Number = 0.999
    k_start: Number = 0
    k_steps: Number = 0
    squared: bool = False
    bandwidth: float = 1e-3
    auxiliary_k: int | None = None
    decode: Literal["dense", "sparse"] = "dense"
    most_k: int | None = None
    unit_norm: bool = False


def quickest(latents: int, k: int, backend: str | None = None) -> dict[str, object]:
    """Fields of a `Recipe` that make a step of `topk` or `batch_topk` quick.

    On a CPU the sparse path; on an accelerator, where a loop over pairs would crawl, dense.

    Args:
        latents: F.
        k: mean active latents per row, the largest there will be.
        backend: `cpu`, `gpu` or `tpu`; None: the default one of the process.
    """
    if (backend or jax.default_backend()) != "cpu":
        return {"decode": "dense", "most_k": None}
    # With few latents per one kept, a matrix product is the quicker way.
    kind = "sparse" if 32 * k <= latents else "dense"
    # In steps, so that most sweeps over k share a program.
    return {"decode": kind, "most_k": min(-(-k // 16) * 16, latents)}
