"""What an aggregation is told: one frozen dataclass, from which the flags are derived."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.aggregates.categories import (
    CategoryChoices,
    excluded_tags,
)


def _field(help: str, default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class AggregateConfig:
    """Every choice of an aggregation; the help of each field is its documentation.

    Raises:
        UserError: values that do not go together.
    """

    traces: tuple[str, ...] = _field(
        "Folders that are searched for traces: of released data, or workdirs of runs."
    )
    workdir: str = _field(
        "Folder that page, JSON and tables are written to.",
        "runs/thought_anchors_aggregate",
        affects_results=False,
    )
    convergence: Literal["settled", "plots", "state_c", "paper", "none"] = _field(
        "Which sentences come after the answer is settled and are left out. settled: accuracy "
        "stays above .95 or below .05 to the end, for 5 sentences or more; plots: after the first "
        "4 above .99 or below .01; state_c: 5 at .95; paper: 4 at .98; none: keep all.",
        "settled",
    )
    within: Literal["mean", "median"] = _field("How sentences of one trace are averaged.", "mean")
    values: Literal["raw", "clipped"] = _field(
        "raw values, or clipped: max(0, value), as in the published figures.", "raw"
    )
    exclude: tuple[str, ...] = _field(
        "Categories left out, by short name; the published figures leave out PS,FAE,SC.", ()
    )
    split: Literal["all", "model", "kind", "both"] = _field(
        "Groups that are shown beside all traces: by model, by kind (correct or incorrect), or by "
        "both.",
        "both",
    )
    near: int = _field("Distance in sentences up to which pairs are called near.", 5, minimum=1)
    draws: int = _field("Shuffles behind each null.", 500, minimum=20)
    seed: int = _field("Root of all random draws.", 0)

    def __post_init__(self) -> None:
        if not self.traces:
            raise UserError(
                found="no folders to search for traces",
                expected="one or more",
                do="name them with --traces",
            )
        excluded_tags(self.exclude)

    def choices(self) -> CategoryChoices:
        """How sentences are chosen and averaged."""
        return CategoryChoices(
            convergence=self.convergence,
            within=self.within,
            clipped=self.values == "clipped",
            exclude=self.exclude,
        )
