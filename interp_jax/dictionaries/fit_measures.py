"""What the dictionaries of a run are worth on rows that were set aside.

Measured in threshold mode, as they will be used; of topk and batch_topk also the sparsity and
`fve` in training mode. Nothing is counted: measuring changes no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from interp_jax.dictionaries.delta import class_counts, delta
from interp_jax.dictionaries.fit_step import flat_rows
from interp_jax.dictionaries.metrics import Sums, evaluate, merge, silent_share, summary
from interp_jax.dictionaries.placement import row_sharding
from interp_jax.dictionaries.ring import Ring, Rows
from interp_jax.dictionaries.row_source import RowSource
from interp_jax.dictionaries.training import TrainState
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError


class HeldOut:
    """The first rows of a source, read again whenever they are asked for.

    Making one moves the source past them: what is trained on begins there.

    Args:
        source: standing at the start of the data.
        rows: how many at least; whole batches of them are used.
        batch: rows of a batch.

    Raises:
        UserError: the data ends before.
    """

    def __init__(self, source: RowSource, rows: int, batch: int):
        self._source, self._rows, self._batch = source, rows // batch * batch, batch
        if rows and not self._rows:
            raise UserError(
                found=f"{rows} rows to measure on", expected=f"at least a batch of {batch}",
                do="raise --eval_rows, or set it to 0",
            )  # fmt: skip
        self._start = source.cursor()
        for _ in self:
            pass

    def __iter__(self) -> Iterator[Rows]:
        """Batches in the data's order. Left in the middle, it leaves the source where it is."""
        ring = Ring(
            self._source.size + self._batch, self._source.shapes, keys.root_key(0), place="host"
        )
        given = chunk = 0
        while given < self._rows:
            while ring.full < self._batch:
                try:
                    rows, keep = self._source.next()
                except StopIteration:
                    raise UserError(
                        found=f"data that ended after {given + ring.full} rows",
                        expected=f"{self._rows} rows to measure on, and more to train on",
                        do="give more text, or lower --eval_rows",
                    ) from None
                ring.push(rows, keep, chunk)
                chunk += 1
            yield ring.draw(self._batch)
            given += self._batch

    def again(self) -> Iterator[Rows]:
        """The batches once more; the source then stands where it stood."""
        before = self._source.cursor()
        self._source.seek(self._start)
        try:
            yield from self
        finally:
            self._source.seek(before)


@partial(jax.jit, static_argnames=("select",))
def _sums(train: TrainState, rows: Rows, select: str) -> Sums:
    x, target = flat_rows(rows)
    return jax.vmap(lambda one: evaluate(one.dictionary(), x, target, select))(train)


@jax.jit
def _merged(a: Sums, b: Sums) -> Sums:
    return jax.vmap(merge)(a, b)


@jax.jit
def _read(train: TrainState, sums: dict[str, Sums], dead_after: jax.Array):
    """Measures of each dictionary, leaves with a first axis S."""

    def one(train: TrainState, sums: dict[str, Sums]):
        dictionary = train.dictionary()
        found: dict[str, Any] = dict(summary(sums["inference"]))
        found["silent_share"] = silent_share(dictionary, dead_after)
        if "training" in sums:
            top = summary(sums["training"])
            found |= {"fve_in_training_mode": top["fve"], "l0_in_training_mode": top["l0"]}
        if dictionary.config.outs == 2:
            found |= class_counts(delta(dictionary.decoder_norms()), found["density"] > 0)
        return found

    return jax.vmap(one)(train, sums)


def measures(
    train: TrainState, held_out: HeldOut, dead_after: int, mesh: Mesh | None = None
) -> tuple[dict[str, Any], ...]:
    """Measures of each dictionary on the held-out rows, as numpy values.

    Args:
        train: with a first axis S.
        held_out: which rows.
        dead_after: of `silent_share`, in rows.
        mesh: rows are cut along its `data` axis.

    Returns:
        for each: those of `metrics.summary`; `silent_share`; with two outputs the classes of
        Delta, over all latents and (`_alive`) over those that fired on the held-out rows; for
        topk and batch_topk `fve_in_training_mode` and `l0_in_training_mode`, where k*B entries
        of each batch are kept.
    """
    config = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], train).dictionary()).config
    modes = ("inference", "training") if config.activation == "batch_topk" else ("inference",)
    total: dict[str, Sums] = {}
    for rows in held_out.again():
        if mesh is not None:
            rows = {n: jax.device_put(a, row_sharding(a.shape, mesh)) for n, a in rows.items()}
        for mode in modes:
            sums = _sums(train, rows, mode)
            total[mode] = _merged(total[mode], sums) if mode in total else sums
    found = jax.device_get(_read(train, total, np.int32(dead_after)))
    count = len(found["fve"])
    return tuple({name: values[i] for name, values in found.items()} for i in range(count))
