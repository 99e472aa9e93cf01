"""Importance by category of sentence: within each trace first, then over traces, with tests.

Accuracies are turned by `importance.SIGNS`, so that positive means that the sentence helps.
Raw values are the default. The published figures keep max(0, value) only, which makes every
category look helpful and the noisiest look most so; that choice is `clipped`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.aggregates.convergence import sentences_before_convergence
from interp_jax.studies.thought_anchors.aggregates.measures import TraceMeasures
from interp_jax.studies.thought_anchors.aggregates.over_traces import (
    OverTraces,
    PairedTest,
    holm,
    mean_over_traces,
    paired_test,
)
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME, TAGS, find_tag

PLOTS_EXCLUDE = ("PS", "FAE", "SC")
"""What the published figures leave out."""


@dataclass(frozen=True)
class CategoryChoices:
    """How sentences are chosen and averaged.

    Attributes:
        convergence: key of `CONVERGENCE_RULES`; sentences after it are left out.
        within: `mean` (the figures of August 2025) or `median` (the scatter of October 2025).
        clipped: max(0, value) instead of the value.
        exclude: tags left out, by long or short name; a sentence with such a tag is left out.
    """

    convergence: str = "settled"
    within: str = "mean"
    clipped: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.within not in ("mean", "median"):
            raise UserError(
                found=f"within = {self.within!r}", expected="mean or median", do="name one of them"
            )
        excluded_tags(self.exclude)

    def kept(self, trace: TraceMeasures) -> np.ndarray:
        """Which sentences count, bool `[S]`."""
        before = sentences_before_convergence(trace.accuracy, self.convergence)
        excluded = excluded_tags(self.exclude)
        wanted = [excluded.isdisjoint(tags) for tags in trace.tags]
        return (np.arange(len(trace)) < before) & np.asarray(wanted, bool)


@dataclass(frozen=True)
class TagMean:
    """One category of one measure.

    Attributes:
        over: mean over the per-trace values, with its error.
        sentences: sentences behind it.
        per_trace: float64 `[traces]`, NaN where a trace has no such sentence.
        pooled_mean, pooled_se: over sentences as if they were independent: not for tests,
            but what some published tables show.
    """

    over: OverTraces
    sentences: int
    per_trace: np.ndarray
    pooled_mean: float
    pooled_se: float


@dataclass(frozen=True)
class TagPair:
    """Two categories compared within traces; Holm over all pairs of one measure."""

    first: str
    second: str
    test: PairedTest
    p_t_holm: float
    p_wilcoxon_holm: float


@dataclass(frozen=True)
class CategoryTable:
    """All categories of one measure over some traces."""

    measure: str
    tags: Mapping[str, TagMean]
    pairs: tuple[TagPair, ...]


def excluded_tags(names: Sequence[str]) -> frozenset[str]:
    """Long names of tags given by long or short name.

    Raises:
        UserError: there is no such tag.
    """
    found = {name: find_tag(name) for name in names}
    unknown = [name for name, tag in found.items() if tag is None]
    if unknown:
        raise UserError(
            found=f"the tag {unknown[0]!r}",
            expected="one of " + ", ".join([*(tag.short for tag in TAGS), "unknown"]),
            do="name tags by these",
        )
    return frozenset(tag for tag in found.values() if tag is not None)


def in_order(tags: Iterable[str]) -> list[str]:
    """Tags in the order of the taxonomy; others after them, as they come."""
    tags = list(dict.fromkeys(tags))
    return [*(tag for tag in BY_NAME if tag in tags), *(tag for tag in tags if tag not in BY_NAME)]


def category_table(
    traces: Sequence[TraceMeasures], measure: str, choices: CategoryChoices | None = None
) -> CategoryTable | None:
    """Means and paired tests of one measure by category.

    Args:
        traces: any number; those without the measure add nothing.
        measure: key of `MEASURES`.
        choices: None for the defaults.

    Returns:
        None if no trace has the measure.
    """
    choices = choices or CategoryChoices()
    having = [trace for trace in traces if measure in trace.values]
    if not having:
        return None
    found: dict[str, list[np.ndarray]] = {}
    for place, trace in enumerate(having):
        values = np.where(choices.kept(trace), trace.values[measure], np.nan)
        if choices.clipped:
            values = np.maximum(values, 0.0)  # NaN stays NaN
        for tag in dict.fromkeys(tag for tags in trace.tags for tag in tags):
            tagged = np.asarray([tag in tags for tags in trace.tags])
            own = found.setdefault(tag, [np.empty(0)] * len(having))
            own[place] = values[tagged & np.isfinite(values)]
    tags = {
        tag: _tag_mean(found[tag], choices.within)
        for tag in in_order(found)
        if any(len(own) for own in found[tag])
    }
    return CategoryTable(measure, tags, _pairs(tags))


def _tag_mean(values: list[np.ndarray], within: str) -> TagMean:
    average = np.median if within == "median" else np.mean
    per_trace = np.asarray([average(own) if len(own) else np.nan for own in values])
    pooled = np.concatenate(values)
    n, nan = len(pooled), float("nan")
    return TagMean(
        over=mean_over_traces(per_trace),
        sentences=n,
        per_trace=per_trace,
        pooled_mean=float(pooled.mean()) if n else nan,
        pooled_se=float(pooled.std(ddof=1) / np.sqrt(n)) if n > 1 else nan,
    )


def _pairs(tags: Mapping[str, TagMean]) -> tuple[TagPair, ...]:
    names = list(itertools.combinations(tags, 2))
    tests = [paired_test(tags[a].per_trace, tags[b].per_trace) for a, b in names]
    by_t = holm([test.p_t for test in tests])
    by_rank = holm([test.p_wilcoxon for test in tests])
    return tuple(
        TagPair(first, second, test, float(p), float(q))
        for (first, second), test, p, q in zip(names, tests, by_t, by_rank, strict=True)
    )


@dataclass(frozen=True)
class TagShare:
    """How common a category is; every sentence counts, before and after convergence.

    Attributes:
        sentences: with this tag.
        share: of all tags given.
        per_trace: mean over traces of the number of such sentences.
    """

    sentences: int
    share: float
    per_trace: float


def tag_shares(traces: Sequence[TraceMeasures]) -> dict[str, TagShare]:
    """How common each category is over some traces."""
    counts: dict[str, int] = {}
    for tag in (tag for trace in traces for tags in trace.tags for tag in tags):
        counts[tag] = counts.get(tag, 0) + 1
    total = sum(counts.values())
    return {
        tag: TagShare(counts[tag], counts[tag] / total, counts[tag] / len(traces))
        for tag in in_order(counts)
    }
