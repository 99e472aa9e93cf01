"""Aggregation from end to end: find traces, measure each, aggregate, write page and tables.

    from interp_jax.studies.thought_anchors.aggregates.config import AggregateConfig
    from interp_jax.studies.thought_anchors.aggregates.run import run

    result = run(AggregateConfig(traces=("data/thought_anchors",), workdir="runs/aggregate"))
    print(result.page)

The workdir gets `aggregate.json` (everything), one CSV per table, and `aggregate.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_jax.runtime.process import is_writer
from interp_jax.runtime.progress import Progress
from interp_jax.runtime.provenance import hash_file, library_versions
from interp_jax.runtime.workdir import Workdir
from interp_jax.studies.thought_anchors.aggregates.anchors import anchors
from interp_jax.studies.thought_anchors.aggregates.categories import category_table, tag_shares
from interp_jax.studies.thought_anchors.aggregates.config import AggregateConfig
from interp_jax.studies.thought_anchors.aggregates.convergence import sentences_before_convergence
from interp_jax.studies.thought_anchors.aggregates.correlations import (
    method_agreements,
    trace_agreements,
)
from interp_jax.studies.thought_anchors.aggregates.explained import explain
from interp_jax.studies.thought_anchors.aggregates.found import LABELED, find_traces
from interp_jax.studies.thought_anchors.aggregates.matrices import (
    MATRICES,
    matrix_agreements,
    profile_over_traces,
    trace_matrix_agreements,
)
from interp_jax.studies.thought_anchors.aggregates.measures import (
    MEASURES,
    TraceMeasures,
    measure_folder,
)
from interp_jax.studies.thought_anchors.aggregates.over_traces import mean_over_traces
from interp_jax.studies.thought_anchors.aggregates.page_of import write_aggregate_page
from interp_jax.studies.thought_anchors.aggregates.tables import plain_values, tables

JSON, PAGE = "aggregate.json", "aggregate.html"


@dataclass(frozen=True)
class Result:
    """Where the results are, and what stood out.

    Attributes:
        workdir, page: paths.
        data: the content of `aggregate.json`.
        notes: what could not be said, and why.
    """

    workdir: Path
    page: Path
    data: dict[str, Any]
    notes: tuple[str, ...]


def run(config: AggregateConfig) -> Result:
    """Aggregates the traces that a config names and writes the results.

    Raises:
        UserError: no traces, malformed files, or a workdir of another config.
    """
    found = find_traces(config.traces)
    workdir = Workdir(config.workdir, config)
    measured = []
    with Progress(len(found), "traces", unit="traces") as bar:
        for where in found:
            measured.append(measure_folder(where))
            bar.update(1)
    data = aggregate(measured, config)
    data["inputs"] = {str(t.where.folder): hash_file(t.where.folder / LABELED) for t in measured}
    data["config"], data["versions"] = workdir.config, library_versions()
    data = plain_values(data)
    workdir.write_json(JSON, data)
    for name, text in tables(data).items():
        workdir.write_text(name, text)
    if is_writer():
        write_aggregate_page(workdir / PAGE, data)
    return Result(workdir.path, workdir / PAGE, data, tuple(data["notes"]))


def groups_of(traces: Sequence[TraceMeasures], split: str) -> dict[str, list[TraceMeasures]]:
    """`all traces`, and the groups of a split where there is more than one of them."""
    groups: dict[str, list[TraceMeasures]] = {}
    for trace in traces:
        names = {"model": [trace.where.model], "kind": [trace.kind]}
        names["both"] = [f"{trace.where.model}, {trace.kind}"]
        for name in names.get(split, []):
            groups.setdefault(name, []).append(trace)
    return {"all traces": list(traces)} | (dict(sorted(groups.items())) if len(groups) > 1 else {})


def aggregate(traces: Sequence[TraceMeasures], config: AggregateConfig) -> dict[str, Any]:
    """Everything over the traces, by group; dataclasses and arrays, not yet plain JSON."""
    choices = config.choices()
    draws = {"draws": config.draws, "seed": config.seed}
    near = (None, config.near)
    agreeing = {id(t): trace_agreements(t, choices, **draws) for t in traces}
    matching = {id(t): trace_matrix_agreements(t, within=near, **draws) for t in traces}
    places = {id(t): place for place, t in enumerate(traces)}
    groups = {}
    for name, members in groups_of(traces, config.split).items():
        categories = {m: category_table(members, m, choices) for m in MEASURES}
        explained = {m: explain(members, m, choices) for m in MEASURES}
        groups[name] = {
            "traces": len(members),
            "members": [places[id(t)] for t in members],
            "sentences": sum(map(len, members)),
            "per_trace": mean_over_traces([len(trace) for trace in members]),
            "shares": tag_shares(members),
            "categories": {m: table for m, table in categories.items() if table is not None},
            "agreements": method_agreements([agreeing[id(t)] for t in members]),
            "matrices": matrix_agreements([matching[id(t)] for t in members]),
            "profiles": {
                which: profile
                for which in MATRICES
                if (profile := profile_over_traces(members, which)) is not None
            },
            "explained": {m: one for m, one in explained.items() if one is not None},
        }
    return {
        "measures": MEASURES,
        "traces": [_trace(trace, config) for trace in traces],
        "groups": groups,
        "notes": notes(traces, config),
    }


def _trace(trace: TraceMeasures, config: AggregateConfig) -> dict[str, Any]:
    return {
        "name": trace.where.name,
        "model": trace.where.model,
        "kind": trace.kind,
        "problem": trace.where.problem,
        "sentences": len(trace),
        "kept": sentences_before_convergence(trace.accuracy, config.convergence),
        "accuracy": trace.accuracy,
        "measures": list(trace.values),
        "headroom_from": trace.headroom_from,
        "anchors": anchors(trace),
    }


def notes(traces: Sequence[TraceMeasures], config: AggregateConfig) -> list[str]:
    """What could not be computed or should be known when reading, in sentences."""
    n = len(traces)
    said = []
    if n == 1:
        said.append(
            "There is one trace: standard errors, intervals and tests over traces are undefined "
            "and shown as a dash."
        )
    elif n < 6:
        said.append(
            f"There are {n} traces: the signed-rank test cannot give a p below {2 / 2**n:.3g}, "
            "and t intervals are wide."
        )
    for title, has in (
        ("an attention-suppression matrix", lambda t: t.suppression is not None),
        ("a sentence-to-sentence matrix by resampling", lambda t: t.resampling is not None),
        ("receiver scores", lambda t: "receiver" in t.values),
        ("forced-answer importance", lambda t: "forced_importance_kl" in t.values),
        ("answers of their rollouts (headroom is then the entropy of right or wrong)",
         lambda t: t.headroom_from == "answers"),
    ):  # fmt: skip
        without = sum(not has(trace) for trace in traces)
        if without:
            verb = "lacks" if without == 1 else "lack"
            said.append(f"{without} of {n} {'trace' if n == 1 else 'traces'} {verb} {title}.")
    problems = {(t.where.model, t.where.problem) for t in traces}
    if len(problems) < n:
        said.append(
            f"{n} traces are of {len(problems)} problems: traces of one problem count as "
            "independent here, which they are not quite."
        )
    kept = sum(sentences_before_convergence(t.accuracy, config.convergence) for t in traces)
    total = sum(map(len, traces))
    said.append(
        f"Categories, correlations and explanations use the {kept} of {total} sentences before "
        f"the answer is settled (rule {config.convergence}); matrices and shares use all."
    )
    if config.values == "clipped":
        said.append("Values are clipped at zero, which favours noisy categories.")
    return said
