"""The aggregate as plain JSON values and as CSV tables.

Numbers that are undefined are null in the JSON and empty in a table, never a NaN. Tables hold
names and numbers, no sentences: a spreadsheet could take a sentence for a formula.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_OVER = ("traces", "mean", "se", "low", "high")


def plain_values(value: Any) -> Any:
    """Dataclasses, arrays and NumPy numbers as JSON types; what is not finite becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain_values(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def tables(data: Mapping[str, Any]) -> dict[str, str]:
    """File name -> CSV text, from plain aggregate data."""
    groups = data["groups"].items()
    return {
        "traces.csv": _csv(
            ("trace", "model", "kind", "problem", "sentences", "kept", "headroom_from"),
            (
                (t["name"], t["model"], t["kind"], t["problem"], t["sentences"], t["kept"],
                 t["headroom_from"])
                for t in data["traces"]
            ),
        ),
        "shares.csv": _csv(
            ("group", "tag", "sentences", "share", "per_trace"),
            ((name, tag, *_take(share, "sentences", "share", "per_trace"))
             for name, group in groups for tag, share in group["shares"].items()),
        ),
        "categories.csv": _csv(
            ("group", "measure", "tag", *_OVER, "sentences", "pooled_mean", "pooled_se"),
            ((name, measure, tag, *_take(one["over"], *_OVER),
              *_take(one, "sentences", "pooled_mean", "pooled_se"))
             for name, group in groups for measure, table in group["categories"].items()
             for tag, one in table["tags"].items()),
        ),
        "category_tests.csv": _csv(
            ("group", "measure", "first", "second", *_TEST, "p_t_holm", "p_wilcoxon_holm"),
            ((name, measure, pair["first"], pair["second"], *_take(pair["test"], *_TEST),
              *_take(pair, "p_t_holm", "p_wilcoxon_holm"))
             for name, group in groups for measure, table in group["categories"].items()
             for pair in table["pairs"]),
        ),
        "correlations.csv": _csv(
            ("group", "first", "second", "control", *_OVER, "p_t", "null_high", "p_shuffled"),
            ((name, *_take(one, "first", "second", "control"), *_take(one["over"], *_OVER),
              *_take(one, "p_t", "null_high", "p_shuffled"))
             for name, group in groups for one in group["agreements"]),
        ),
        "matrix_correlations.csv": _csv(
            ("group", "within", "residual", *_OVER, "p_t", "null_mean", "null_high", "p_shifted"),
            ((name, *_take(one, "within", "residual"), *_take(one["over"], *_OVER),
              *_take(one, "p_t", "null_mean", "null_high", "p_shifted"))
             for name, group in groups for one in group["matrices"]),
        ),
        "distance.csv": _csv(("group", "matrix", "distance", "traces", "mean", "se"),
                             _profiles(groups)),
        "explained.csv": _csv(
            ("group", "measure", "explanation", *_OVER),
            ((name, measure, explanation, *_take(over, *_OVER))
             for name, group in groups for measure, one in group["explained"].items()
             for explanation, over in one["over"].items()),
        ),
        "anchors.csv": _csv(
            ("trace", "sentence", "tags", "accuracy", "accuracy_after", "largest_for"),
            ((t["name"], one["index"], " ".join(one["tags"]), one["accuracy"],
              one["accuracy_after"], " ".join(one["largest_for"]))
             for t in data["traces"] for one in t["anchors"]),
        ),
    }  # fmt: skip


_TEST = ("traces", "difference", "se", "t", "p_t", "p_wilcoxon")


def _profiles(groups: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[Any, ...]]:
    for name, group in groups:
        for which, profile in group["profiles"].items():
            columns = (profile[key] for key in ("distance", "count", "mean", "se"))
            for row in zip(*columns, strict=True):
                yield (name, which, *row)


def _take(values: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(values[name] for name in names)


def _csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()
