"""Do the chosen latents carry what fine-tuning changed? KL recovered by patching them.

The base model's activation after one layer is given to the chat model's later layers, with the
contribution of some latents moved to what it is in the chat model (`conditions`). What counts is
KL(chat || patched) per predicted token, in nats, against that of the unpatched base activation:
recovered = 1 - KL / KL(none). All means are over tokens, all intervals over conversations, and
every condition is compared on the same ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import Decoder
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal
from interp_jax.studies.model_diffing.bootstrap import Interval, Resamples
from interp_jax.studies.model_diffing.conditions import Condition, rows_table, table
from interp_jax.studies.model_diffing.patched_forward import (
    METRICS,
    PatchPlan,
    layers_after,
    patched_sums,
    require_patchable,
)
from interp_jax.studies.model_diffing.positions import SETS

BASELINE, BASE_MODEL = "none", "base model"
WHOLE = (BASELINE, "full", "template")
"""Conditions that are not about latents."""


@dataclasses.dataclass(frozen=True)
class Causality:
    """Sums over the positions of each conversation.

    Attributes:
        names: [Q + 1] conditions; the last is the base model itself.
        sizes: [Q + 1] how many latents each patches; None where it is not about latents.
        sums: float64 [Q + 1, len(METRICS), len(SETS), R].
        counts: float64 [len(SETS), R], positions.
    """

    names: tuple[str, ...]
    sizes: tuple[int | None, ...]
    sums: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recovered:
    """One cell of the table.

    Attributes:
        condition, set: of positions. latents: how many are patched, or None.
        tokens: predictions, of `kl.rows` conversations.
        kl: KL(chat || patched), nats. recovered: 1 - kl / kl of `none`.
        variance: of the KL over tokens.
        kl_from_base, nll, nll_of_top: means, see `PatchedSums`.
    """

    condition: str
    set: str
    latents: int | None
    tokens: int
    kl: Interval
    recovered: Interval
    variance: float
    kl_from_base: float
    nll: float
    nll_of_top: float


def measure_causality(
    base: Decoder,
    chat: Decoder,
    dictionary: Dictionary,
    batches: Iterable[Batch],
    conditions: Sequence[Condition],
    plan: PatchPlan,
    key: jax.Array,
    journal: Journal,
    on_batch: Callable[[int], Any] = lambda rows: None,
) -> Causality:
    """Runs the conditions over conversations; finished batches are read from the journal.

    Args:
        base, chat: whole networks that share a vocabulary.
        dictionary: crosscoder of the two.
        batches: of single conversations, the same in every run.
        conditions: one of them named `none`.
        plan: static; where a token has more active latents than its `capacity`, that is raised.
        key: typed key of the random rows.
        journal: one record for each batch.
        on_batch: told how many rows were done.

    Raises:
        UserError: what does not belong together, no conversation with an assistant's token, or
            a journal of other conditions.
    """
    require_patchable(base, chat, dictionary, plan)
    names = (*(condition.name for condition in conditions), BASE_MODEL)
    if BASELINE not in names:
        raise UserError(
            found="conditions without `none`", expected="the baseline of what is recovered",
            do="add Condition('none')",
        )
    kept = dict(journal.records())
    after, rows, told = layers_after(chat, plan.layer), None, []
    for number, batch in enumerate(batches):
        record_id = f"batch-{number}"
        if record_id not in kept:
            if rows is None:
                rows = rows_table(dictionary, plan.base, plan.chat, key)
                arrays = table(conditions, dictionary.config.latents)
            run = partial(patched_sums, base, chat, after, dictionary, rows, arrays, batch)
            out = run(plan)
            while int(out.overfull):  # never with room for all latents
                plan = dataclasses.replace(plan, capacity=2 * plan.capacity)
                out = run(plan)
            record = _record(jax.device_get(out), names)
            journal.append(record_id, record)
            kept[record_id] = record
        record = kept[record_id]
        if tuple(record["names"]) != names:
            raise UserError(
                found=f"results of other conditions in {journal.path}",
                expected="those of this run", do="delete the file, or choose another workdir",
            )
        told.append(record)
        on_batch(batch.tokens.shape[0])
    sums = [np.asarray(r["sums"], np.float64) for r in told if r["rows"]]
    if not sums:
        raise UserError(
            found="no prediction of an assistant's token in the conversations",
            expected="at least one", do="give conversations with answers, or longer rows",
        )
    counts = [np.asarray(r["counts"], np.float64) for r in told if r["rows"]]
    every = dictionary.config.latents
    sizes = [
        None if c.name in WHOLE else every if c.latents is None else len(c.latents)
        for c in conditions
    ]
    return Causality(
        names, (*sizes, None), np.concatenate(sums, axis=-1), np.concatenate(counts, axis=-1)
    )


def _record(out, names: Sequence[str]) -> dict[str, Any]:
    if not (out.touched > 0).all():
        raise UserError(
            found="no activation replaced", expected="every token's", do="check the batch"
        )
    # Padding rows, and conversations without an answer, have nothing to be resampled.
    some = out.counts[SETS.index("all")] > 0
    return {
        "names": list(names), "rows": int(some.sum()),
        "sums": out.sums[..., some].tolist(), "counts": out.counts[:, some].tolist(),
    }


def recovered_table(found: Causality, resamples: Resamples) -> list[Recovered]:
    """Every condition over every set of positions that has any."""
    baseline = found.names.index(BASELINE)
    kl, square, from_base, nll, top = (METRICS.index(name) for name in METRICS)
    cells = []
    for place, name in enumerate(found.names):
        for s, of in enumerate(SETS):
            counts, sums = found.counts[s], found.sums[place, :, s]
            tokens = counts.sum()
            if not tokens:
                continue
            mean = sums.sum(-1) / tokens
            cells.append(Recovered(
                condition=name, set=of, latents=found.sizes[place], tokens=int(tokens),
                kl=resamples.mean(sums[kl], counts),
                recovered=resamples.recovered(sums[kl], found.sums[baseline, kl, s]),
                variance=float(max(mean[square] - mean[kl] ** 2, 0.0)),
                kl_from_base=float(mean[from_base]), nll=float(mean[nll]),
                nll_of_top=float(mean[top]),
            ))
    return cells


def best_against_worst(found: Causality, resamples: Resamples) -> list[dict[str, Any]]:
    """KL(worst half) - KL(best half), by Delta and by scaling: above 0 when the score ranks latents
    by what they do. Over each set of positions, with intervals over conversations."""
    rows = []
    kl = METRICS.index("kl")
    for score in ("Delta", "scaling"):
        for ending in ("", ", added"):
            names = [f"{half} half by {score}{ending}" for half in ("worst", "best")]
            if not set(names) <= set(found.names):
                continue
            worst, best = (found.names.index(name) for name in names)
            for s, of in enumerate(SETS):
                if found.counts[s].sum():
                    difference = resamples.difference(
                        found.sums[worst, kl, s], found.sums[best, kl, s], found.counts[s]
                    )
                    rows.append({"score": score, "added": bool(ending), "set": of,
                                 "difference": difference})  # fmt: skip
    return rows
